"""Which files of a folder hold text, and which are left out."""

import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sae_lens_ext.errors import FormatError

SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".parquet")
"""Suffixes of the formats that can be read, in lower case."""

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes that may follow those of text and JSON; Parquet compresses itself."""

# How many files a warning names.
_N_NAMED = 20


class TextFile(NamedTuple):
    """A file, and what its name says about its content."""

    path: Path
    suffix: str
    """One of ``SUFFIXES``."""
    compression: str
    """One of ``COMPRESSIONS``, or empty."""


def text_files(path: Path) -> list[TextFile]:
    """The files with text among a file, or those below a folder, in a fixed order.

    Names are never patterns, and suffixes count in any case. Hidden files and folders
    below a folder (names that begin with a dot, such as macOS' ``._notes.txt``) are
    left out silently; every other file that cannot be read is named in one warning.

    Raises:
        FormatError: a file of another kind, or a folder without files of text.
    """
    if not path.is_dir():
        file = _text_file(path)
        if isinstance(file, str):
            raise FormatError(f"{path} cannot be read as text: {file}; {_supported()}")
        return [file]

    files = []
    left_out: dict[Path, str] = {}
    for candidate in sorted(_visible_files(path, left_out)):
        file = _text_file(candidate)
        if isinstance(file, str):
            left_out[candidate] = file
        else:
            files.append(file)

    if not files:
        detail = f"; left out: {_listed(left_out, path)}" if left_out else ""
        raise FormatError(
            f"{path} holds no {', '.join(SUFFIXES)} file to read text from{detail}"
        )
    if left_out:
        # Three calls up is the caller of documents().
        warnings.warn(
            f"{path}: left out {len(left_out)} that cannot be read as text: "
            f"{_listed(left_out, path)}; {_supported()}",
            stacklevel=3,
        )
    return files


def _text_file(path: Path) -> TextFile | str:
    """The format of a file by its name, or the reason why it cannot be read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            return "a link that leads nowhere"
        return f"it cannot be opened ({error.strerror})"
    if not stat.S_ISREG(mode):
        return "not a regular file"

    compression = path.suffix.lower()
    name = path
    if compression in COMPRESSIONS:
        name = path.with_suffix("")
    else:
        compression = ""
    suffix = name.suffix.lower()
    # Parquet is read from its end, where a compressed file cannot begin.
    if suffix not in SUFFIXES or (compression and suffix == ".parquet"):
        return f"{suffix}{compression} is not supported" if suffix else "no suffix"
    return TextFile(path, suffix, compression)


def _visible_files(root: Path, left_out: dict[Path, str]) -> Iterator[Path]:
    """Everything below a folder but hidden names; each folder once, through links too.

    Folders that cannot be listed are added to ``left_out``.
    """

    def remember(error: OSError) -> None:
        left_out[Path(error.filename)] = f"it cannot be listed ({error.strerror})"

    visited = set()
    for folder, folders, names in os.walk(root, onerror=remember, followlinks=True):
        # A link can lead back to a folder above it.
        status = Path(folder).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in visited:
            folders.clear()
            continue
        visited.add(identity)

        # os.walk visits the folders that are left in its list, in their order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                yield Path(folder, name)


def _listed(left_out: Mapping[Path, str], root: Path) -> str:
    names = [
        f"{path.relative_to(root)} ({reason})" for path, reason in left_out.items()
    ]
    n_more = len(names) - _N_NAMED
    text = ", ".join(names[:_N_NAMED])
    return f"{text} and {n_more} more" if n_more > 0 else text


def _supported() -> str:
    return (
        f"{', '.join(SUFFIXES)} can be read, the first four also with "
        f"{', '.join(COMPRESSIONS)} behind them"
    )
