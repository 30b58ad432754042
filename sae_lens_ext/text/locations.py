"""Where text is: a file or folder here, or a dataset on the Hugging Face hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError, SaeLensExtError
from sae_lens_ext.text.files import SUFFIXES

# "owner/name", or the name alone.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def local_path(source: str | Path) -> Path | None:
    """A file or folder that exists; None for the name of a dataset.

    Raises:
        FormatError: ``source`` is neither, or cannot be read.
    """
    if not isinstance(source, str | Path) or not str(source).strip():
        raise FormatError(
            "source must be a file, a folder or the name of a dataset to read text "
            f"from; got {source!r}"
        )
    try:
        path = Path(source).expanduser()
        if path.exists() or path.is_symlink():
            return path
    # A name that is too long or holds NUL, or a home that does not exist.
    except (OSError, ValueError, RuntimeError) as error:
        raise FormatError(f"{str(source)!r} cannot be read ({error})") from error

    # datasets would read names with a suffix or a wildcard as local files.
    is_name = _HUB_NAME.fullmatch(str(source)) is not None
    is_file_name = str(source).lower().endswith(SUFFIXES)
    if isinstance(source, Path) or is_file_name or not is_name:
        raise FormatError(f"no file or folder {str(source)!r} here")
    return None


def hub_dataset(name: str) -> Any:
    """The split "train" of a dataset on the hub, to be streamed.

    Raises:
        FormatError: it cannot be reached.
        MissingDependency: datasets is not installed.
    """
    datasets = require("datasets", f"Reading {name}")
    try:
        return datasets.load_dataset(name, split="train", streaming=True)
    except (OSError, ValueError, ConnectionError) as error:
        raise FormatError(
            f"no file or folder {name!r} here, and no dataset of that name can be "
            f"reached ({error})"
        ) from error


@contextmanager
def reading_dataset(name: str) -> Iterator[None]:
    """Raise the errors of a dataset's readers as ``FormatError`` with its name."""
    try:
        yield
    except SaeLensExtError:
        raise
    # The readers below datasets raise errors of their own, without a common base class.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise FormatError(
            f"{name} cannot be read to its end ({type(error).__name__}: {reason})"
        ) from error
