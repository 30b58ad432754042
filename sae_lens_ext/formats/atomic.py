"""Write files so that neither a reader nor a crash ever meets half of one."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, in a hidden folder beside ``path``.

    It is moved to ``path`` when the block succeeds, and deleted when the block raises.
    A process that is killed leaves the folder, ``.NAME.XXXXXXXX``, and nothing else,
    also where the writer uses temporary files of its own, as safetensors does.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder, "notes.txt")
    ...     with replacing(target) as temporary:
    ...         _ = temporary.write_text("whole")
    ...     target.read_text(), len(list(target.parent.iterdir()))
    ('whole', 1)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(folder, path.name)

    try:
        yield temporary
        # Temporary files of safetensors are private.
        make_ordinary(temporary)
        # On disk before it has the name, or a crash could leave an empty file there.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(folder)


def delete_temporary(path: Path) -> None:
    """Delete what ``replacing`` left at a kill: a folder, or once a file."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def make_ordinary(path: Path) -> None:
    """Give a file the permissions that an ordinary new file would have."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk.

    Where the system cannot say so, nothing happens.
    """
    # Windows cannot open folders.
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Raise errors of safetensors, such as those of a full disk, as ``OSError``."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error})") from error
