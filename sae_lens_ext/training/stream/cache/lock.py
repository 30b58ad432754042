"""Who writes a cache: one process, by a lock that ends with it.

The lock is of a file and not of the folder, as in ``formats.locks``: file systems on a
network lock only what is open for writing, and a reader on another machine has to know
whether there is a writer.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from sae_lens_ext.errors import InvalidArgument

try:
    import fcntl
except ImportError:  # Windows, where writers are not kept apart.
    fcntl = None

_FILE = ".lock"
# A reader that looks for a writer holds the lock for an instant.
_SECONDS_TO_TRY = 2.0


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder until the block ends, or the process does.

    The system takes the lock away when a process ends, however it ends.

    Raises:
        InvalidArgument: another process writes there, or nobody can.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InvalidArgument(
            f"{folder} cannot be written to ({error}); give another folder"
        ) from error
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def is_being_written(folder: Path) -> bool:
    """Whether a process writes to a folder at this moment."""
    if fcntl is None:
        return False
    try:
        handle = os.open(folder / _FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    # Some network file systems have no locks.
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _lock(handle: int, folder: Path) -> None:
    if fcntl is None:
        return
    end = time.monotonic() + _SECONDS_TO_TRY
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise InvalidArgument(
                    f"another process is writing to {folder}; wait for it to end, or "
                    "give another folder"
                ) from None
            time.sleep(0.05)
        # Some network file systems have no locks.
        except OSError:
            return
        else:
            return
