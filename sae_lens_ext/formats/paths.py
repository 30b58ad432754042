"""Paths that users choose: one check of what they are, and one of what fails there."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from sae_lens_ext._described import described
from sae_lens_ext.errors import InvalidArgument

# These say nothing about the choice of a path.
_NOT_OF_THE_PATH = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def checked_path(value: object, name: str) -> Path:
    """The path of a file or folder, with the user's home in the place of ``~``.

    >>> checked_path("runs/first", "folder").name
    'first'

    Raises:
        InvalidArgument: neither text nor a path object, or empty.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InvalidArgument(f"{name} must be a path; got {described(value)}")
    return Path(os.fspath(value)).expanduser()


@contextlib.contextmanager
def writing_to(path: Path, kind: str) -> Iterator[None]:
    """Raise errors of the system as those of a path that a user chose.

    Those of a full or broken disk stay as they are.

    Args:
        path: the file or folder that the block writes to.
        kind: ``"file"`` or ``"folder"``.

    Raises:
        InvalidArgument: it cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_OF_THE_PATH:
            raise
        raise InvalidArgument(
            f"{path} cannot be written to ({error.strerror or error}); give another "
            f"{kind}"
        ) from error
