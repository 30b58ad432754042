"""Metrics on Weights & Biases."""

import hashlib

from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.training.logging.base import LoggedRun, Metrics


class WeightsAndBiases:
    """Logs to one run, and goes on with it when training does; see ``Logger``.

    Steps that a run repeats after an interruption are kept as they were the first time.
    """

    def __init__(self, run: LoggedRun) -> None:
        """Begin the run, or go on with it.

        Raises:
            InvalidArgument: Weights & Biases does not begin it; the error says why.
        """
        wandb = require("wandb", "Logging to Weights & Biases")
        try:
            self._run = wandb.init(
                project=run.project,
                name=run.folder.name,
                id=_identifier(run),
                resume="allow",
                config=dict(run.settings),
                dir=str(run.folder),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InvalidArgument(
                f"log_to has wandb, which does not begin a run ({reason}); without an "
                "account, WANDB_MODE=offline keeps the metrics here"
            ) from error

    def log(self, step: int, metrics: Metrics) -> None:
        """See ``Logger.log``."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See ``Logger.close``."""
        self._run.finish()


def _identifier(run: LoggedRun) -> str:
    """The same for the same folder of the same machine, and no other."""
    status = run.folder.stat()
    described = f"{run.folder.resolve()} {status.st_dev} {status.st_ino}"
    return hashlib.sha256(described.encode()).hexdigest()[:16]
