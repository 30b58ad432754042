"""The loggers by name."""

from collections.abc import Callable, Mapping, Sequence

from sae_lens_ext.training.logging.base import LoggedRun, Logger
from sae_lens_ext.training.logging.tensorboard import TensorBoard
from sae_lens_ext.training.logging.trackio import Trackio
from sae_lens_ext.training.logging.wandb import WeightsAndBiases

# Each imports its package when it is made.
_CLASSES: Mapping[str, Callable[[LoggedRun], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}


def open_loggers(names: Sequence[str], run: LoggedRun) -> list[Logger]:
    """The loggers with these names; see ``LOGGERS``.

    Raises:
        MissingDependency: the package of one of them is not installed.
    """
    return [_CLASSES[name](run) for name in names]
