"""Metrics as JSON lines, without gaps or repeats however often a run is killed.

A checkpoint knows how long the file was. What was written after it is cut off when the
run goes on from there, and written again.
"""

import json
import os
from pathlib import Path
from warnings import warn

from sae_lens_ext.training.logging.base import Metrics


class MetricsFile:
    """A file with one JSON object per line."""

    def __init__(self, path: Path, size: int = 0) -> None:
        """Open a file for appending.

        Args:
            path: the file.
            size: bytes that belong to the run so far; the rest is cut off. Warns where
                there are fewer.
        """
        self._file = path.open("a", encoding="utf-8")
        actual = os.fstat(self._file.fileno()).st_size
        if actual < size:
            warn(
                f"{path} was {size} bytes long when the run was interrupted and is "
                f"{actual} now: lines are missing there",
                stacklevel=2,
            )
        self._file.truncate(min(size, actual))

    def write(self, metrics: Metrics) -> None:
        """Append a line."""
        self._file.write(json.dumps(metrics) + "\n")
        # Seen by whoever watches the file, and not lost with the process.
        self._file.flush()

    def synced_size(self) -> int:
        """Wait until all lines are on disk; returns how many bytes they are."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()
