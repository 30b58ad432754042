"""Metrics on trackio, which keeps them on this machine."""

from sae_lens_ext._optional import require
from sae_lens_ext.training.logging.base import LoggedRun, Metrics


class Trackio:
    """Logs to one run, and goes on with it when training does; see ``Logger``."""

    def __init__(self, run: LoggedRun) -> None:
        """Begin the run, or go on with it."""
        trackio = require("trackio", "Logging to trackio")
        self._run = trackio.init(
            project=run.project,
            name=run.folder.name,
            resume="allow",
            config=dict(run.settings),
        )

    def log(self, step: int, metrics: Metrics) -> None:
        """See ``Logger.log``."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See ``Logger.close``."""
        self._run.finish()
