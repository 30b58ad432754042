"""The interface of every logger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

Metrics = Mapping[str, int | float]
"""Numbers of one step by name."""


class LoggedRun(NamedTuple):
    """What a logger gets to know of a run."""

    folder: Path
    """The folder of the run; its name is the run's name."""
    project: str
    """The project that the run belongs to."""
    settings: Mapping[str, Any]
    """The settings of the run; JSON values."""
    step: int
    """The step from which it goes on; 0 for a new run."""


@runtime_checkable
class Logger(Protocol):
    """Something that keeps metrics beside ``metrics.jsonl``."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Keep the metrics of a step."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...
