"""Replace several files of a folder as one.

Files can only be renamed one after the other, so a save that is killed between two
renames would leave a description beside weights of another SAE. Here, a save

1. writes all files into a folder of its own, inside the folder, and syncs them;
2. renames that to ``.saved``: from now on the save counts;
3. deletes the old description, moves the new files into place, the description last,
   and deletes ``.saved``.

Killed before step 2, the old files are all there. Killed after it, the new ones are:
some in place and the rest in ``.saved``, where ``current_file`` looks first, and the
next save finishes step 3. At no time are new weights beside an old description, for
readers that do not know ``.saved`` either. Other files of the folder are not touched.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from sae_lens_ext.errors import FormatError, SaeLensExtError
from sae_lens_ext.formats.atomic import make_ordinary, sync
from sae_lens_ext.formats.locks import locked

Result = TypeVar("Result")

SAVED = ".saved"
"""The folder, inside the folder, of a save that counts and is not in place yet."""

_UNFINISHED = ".saving-"
_DELETED = ".deleted"
# A save takes milliseconds between its first and its last rename.
_ATTEMPTS = 100


@contextlib.contextmanager
def replacing_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield an empty folder; its files replace those of ``folder`` as one.

    That happens when the block succeeds; when it raises, nothing changes.

    Args:
        folder: where the files belong; made if it does not exist.
        names: all files that belong together, the description last. Those that the
            block does not write are deleted.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for text in ("old", "new"):
    ...         with replacing_files(Path(folder), ["a", "b"]) as temporary:
    ...             _ = (temporary / "b").write_text(text)
    ...     current_file(Path(folder), "b").read_text()
    'new'
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for leftover in folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        _finish(folder, names)

        temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
        try:
            yield temporary
            for name in names:
                if (temporary / name).exists():
                    # safetensors makes private files.
                    make_ordinary(temporary / name)
                else:
                    (temporary / f"{name}{_DELETED}").touch()
            for path in (*temporary.iterdir(), temporary):
                sync(path)
            temporary.rename(folder / SAVED)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(folder)
        _finish(folder, names)


def current_file(folder: Path, name: str) -> Path:
    """Where a file of the last save is: in place, or not moved there yet.

    There is no such file if the save deleted it.
    """
    waiting = folder / SAVED / name
    is_deleted = waiting.with_name(f"{name}{_DELETED}").exists()
    return waiting if is_deleted or waiting.exists() else folder / name


def read_unchanged(
    folder: Path, names: Sequence[str], read: Callable[[Path], Result]
) -> Result:
    """What ``read(folder)`` returns or raises while none of the files changes.

    If one does, it is read again, so that all files are always those of one save.

    Raises:
        FormatError: the folder is written to without a pause.
    """
    for _ in range(_ATTEMPTS):
        state = _state_of(folder, names)
        try:
            result = read(folder)
        except SaeLensExtError:
            if state == _state_of(folder, names):
                raise
        else:
            if state == _state_of(folder, names):
                return result
    raise FormatError(f"{folder} is written to without a pause; read it afterwards")


def _state_of(folder: Path, names: Sequence[str]) -> list[tuple[int, int, int] | None]:
    """What changes whenever one of the files is replaced, wherever it is."""
    places = (folder / SAVED, folder)
    return [_identity(place / name) for name in names for place in places]


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _finish(folder: Path, names: Sequence[str]) -> None:
    """Move the files of a save that counts into place; this can be begun again."""
    saved = folder / SAVED
    if not saved.is_dir():
        return

    description = names[-1]
    if (saved / description).exists():
        (folder / description).unlink(missing_ok=True)
    for name in names:
        marker = saved / f"{name}{_DELETED}"
        if marker.exists():
            (folder / name).unlink(missing_ok=True)
            marker.unlink()
        elif (saved / name).exists():
            (saved / name).replace(folder / name)

    sync(folder)
    shutil.rmtree(saved)
