"""How a training is saved, evaluated, logged and shared: nothing changes the weights.

The sentence under a field is the help of its option on the command line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.errors import InvalidArgument, InvalidK

LOGGERS = ("tensorboard", "wandb", "trackio")
"""Where metrics can be logged to beside ``metrics.jsonl``."""

PARALLEL = ("data", "dictionary", "none")
"""What several processes can share."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a training is saved, evaluated, logged and shared between processes.

    All of it may be different when a run is resumed.

    Raises:
        InvalidArgument: one or more fields are invalid; the message names them all.
    """

    checkpoint_every: int = 1000
    """Most steps between two checkpoints."""

    checkpoint_minutes: float = 15.0
    """Most minutes between two checkpoints: what a run that is killed loses."""

    keep_last: int = 2
    """Checkpoints to keep; a second one is there should the disk damage the last."""

    log_every: int = 50
    """Steps between two lines of metrics."""

    log_to: Sequence[str] = ()
    """Where to log beside metrics.jsonl: tensorboard, wandb, trackio."""

    project: str = "sae_lens_ext"
    """Name of the project on Weights & Biases or trackio."""

    eval_every: int = 1000
    """Steps between two evaluations on held-out tokens."""

    eval_ks: Sequence[int] | None = None
    """Values of k to evaluate at; by default the powers of two up to k, and k."""

    eval_tokens: int = 16_384
    """Largest number of held-out tokens to evaluate on."""

    best_k: int | None = None
    """The SAE with the least held-out error at this k is kept as best/; by default the
    k of the config."""

    parallel: str = "data"
    """What several processes under torchrun share: data (each has the whole SAE and a
    share of every batch), dictionary (each has a slice of the features), or none (each
    trains on its own)."""

    def __post_init__(self) -> None:
        """Check every field."""
        with FieldChecks(self) as check:
            check(
                arguments.positive_int,
                "checkpoint_every",
                "keep_last",
                "log_every",
                "eval_every",
                "eval_tokens",
            )
            check(arguments.finite, "checkpoint_minutes", above=0)
            check(arguments.positive_int, "best_k", optional=True)
            check(_ks, "eval_ks", optional=True)
            check(_loggers, "log_to")
            check(arguments.string, "project")
            check(arguments.choice, "parallel", choices=PARALLEL)

    def check_ks(self, d_sae: int) -> None:
        """Check that an SAE of this size can be evaluated at these values of k.

        Raises:
            InvalidK: it has fewer features than one of them.
        """
        largest = {"eval_ks": max(self.eval_ks or [0]), "best_k": self.best_k or 0}
        for name, k in largest.items():
            if k > d_sae:
                raise InvalidK(f"{name} must be at most d_sae={d_sae}; got {k}")

    def ks_at(self, k: int) -> tuple[int, ...]:
        """The values of k to evaluate an SAE at that is trained for ``k``; rising.

        >>> RunConfig().ks_at(12), RunConfig(best_k=5).ks_at(2)
        ((1, 2, 4, 8, 12), (1, 2, 5))
        """
        chosen = {1 << power for power in range(k.bit_length())} | {k}
        if self.eval_ks is not None:
            chosen = set(self.eval_ks)
        chosen.add(self.best_k_at(k))
        return tuple(sorted(chosen))

    def best_k_at(self, k: int) -> int:
        """The k that decides which SAE is the best of a training for ``k``."""
        return k if self.best_k is None else self.best_k


def _ks(value: Any, name: str) -> tuple[int, ...]:
    ks = arguments.integers(value, name, at_least=1)
    if not ks:
        raise InvalidArgument(f"{name} must have at least one k; got none")
    return ks


def _loggers(value: Any, name: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else list(value)
    for logger in names:
        arguments.choice(logger, name, choices=LOGGERS)
    return tuple(dict.fromkeys(names))
