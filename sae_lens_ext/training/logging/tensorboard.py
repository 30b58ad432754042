"""Metrics on TensorBoard, in the folder ``tensorboard`` of the run."""

from sae_lens_ext._optional import require
from sae_lens_ext.training.logging.base import LoggedRun, Metrics

_PURPOSE = "Logging to TensorBoard"


class TensorBoard:
    """Writes scalars; see ``Logger``."""

    def __init__(self, run: LoggedRun) -> None:
        """Open a writer."""
        # torch's writer imports it, and its error would name neither.
        require("tensorboard", _PURPOSE)
        module = require("torch.utils.tensorboard", _PURPOSE)
        # What a run wrote after its last checkpoint is written again.
        self._writer = module.SummaryWriter(
            log_dir=str(run.folder / "tensorboard"), purge_step=run.step + 1
        )

    def log(self, step: int, metrics: Metrics) -> None:
        """See ``Logger.log``."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See ``Logger.close``."""
        self._writer.close()
