"""Files that several commands write to, and disks that are full."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

try:
    import fcntl
except ImportError:  # Windows, where commands are not kept apart.
    fcntl = None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that lock a folder waiting until the block ends.

    The system takes the lock away when a process ends, however it ends, and no file is
    left behind.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems have no locks.
        with contextlib.suppress(OSError):
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Raise errors of safetensors, such as those of a full disk, as ``OSError``."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error})") from error
