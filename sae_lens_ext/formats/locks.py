"""Keep several processes out of one folder.

The system takes a lock away when its process ends, however it ends, and no file is left
behind. Windows has no such locks, and neither have some file systems on a network;
there, nothing is locked.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that lock a folder waiting until the block ends."""
    handle = _open(folder)
    try:
        # Raised where the file system has no locks.
        with contextlib.suppress(OSError):
            if fcntl is not None and handle is not None:
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        _close(handle)


@contextlib.contextmanager
def locked_or_busy(folder: Path) -> Iterator[bool]:
    """Lock a folder without waiting.

    Yields False, and locks nothing, if another process has locked it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with locked_or_busy(Path(folder)) as first:
    ...         with locked_or_busy(Path(folder)) as second:
    ...             print(first, second)
    True False
    """
    handle = _open(folder)
    is_locked = True
    try:
        # Any other error means that the file system has no locks.
        with contextlib.suppress(OSError):
            if fcntl is not None and handle is not None:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    is_locked = False
        yield is_locked
    finally:
        _close(handle)


def _open(folder: Path) -> int | None:
    # Windows cannot open folders.
    return None if fcntl is None else os.open(folder, os.O_RDONLY)


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
