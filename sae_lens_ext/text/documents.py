"""Documents to run a model on, from files, from a dataset, or from Python itself."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError
from sae_lens_ext.text.column import TextColumn
from sae_lens_ext.text.decoding import opened, text_of
from sae_lens_ext.text.files import SUFFIXES, TextFile, text_files
from sae_lens_ext.text.json_rows import rows_of_lines, rows_of_value
from sae_lens_ext.text.parquet import cells_of_parquet
from sae_lens_ext.text.standard_library import default_documents

# "owner/name", or the name alone.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def documents(
    source: str | Path | None = None, *, column: str = "text"
) -> Iterator[str]:
    """Texts, one document at a time.

    ========== ====================================================================
    suffix     documents
    ========== ====================================================================
    .txt, .md  the file is one document
    .jsonl     one per line, which is an object with ``column``
    .json      one per object of a list; or a list of texts in ``column`` of one
               object; or as .jsonl
    .parquet   one per row; only ``column`` is read
    ========== ====================================================================

    Suffixes count in any case, and ``.gz``, ``.bz2``, ``.xz`` or ``.zst`` may follow
    all but the last. Text is UTF-8, or what a byte-order mark says. Halves of
    characters, which JSON can name, are replaced by U+FFFD. A value is text or an
    error: dates and numbers are not guessed.

    Every file below a folder is read, in the order of the names, or named in a warning.
    Hidden files and folders (names that begin with a dot, such as ``.git`` and macOS'
    ``._notes.txt``) are left out without one, and so are empty files. Rows without a
    text are left out, with a warning at the end that counts them. Names are never
    patterns: ``a[1].txt`` is the file of that name.

    Args:
        source: a file, a folder that is searched for files, or otherwise the name of a
            dataset on the Hugging Face hub, whose split "train" is streamed; None for
            ``default_documents``.
        column: the column of JSON and Parquet files and of datasets that holds the
            text.

    Raises:
        FormatError: ``source`` holds no text or cannot be read or reached (raised at
            once); a file is broken, is not text, or has no column of that name, or a
            row holds something else there (raised on the way to it). The error names
            the file, and the row or the byte.
        InvalidArgument: ``column`` is not a string.
        MissingDependency: pyarrow (for Parquet and .zst) or datasets (for the hub) is
            needed and not installed.
    """
    column = arguments.string(column, "column")
    if source is None:
        return default_documents()

    path = _local(source)
    if path is None:
        return _of_dataset(str(source), column)
    return _of_files(path, text_files(path), column)


def _local(source: str | Path) -> Path | None:
    """A file or folder that exists; None for the name of a dataset."""
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


def _of_files(path: Path, files: list[TextFile], column: str) -> Iterator[str]:
    texts = TextColumn(column)
    # One file at a time, so that an error names the file.
    for file in files:
        yield from _of_file(file, texts)
    texts.finish(str(path), stacklevel=2)


def _of_file(file: TextFile, texts: TextColumn) -> Iterator[str]:
    where = str(file.path)
    if file.suffix == ".parquet":
        for number, cell in cells_of_parquet(file.path, texts.name):
            yield from texts.of_cell(cell, where, number)
    elif file.suffix in (".json", ".jsonl"):
        with opened(file) as characters:
            if file.suffix == ".jsonl":
                rows = rows_of_lines(characters, file.path)
            else:
                rows = rows_of_value(characters, file.path, texts.name)
            yield from texts.of_rows(rows, where)
    elif text := text_of(file):
        yield from texts.of_cell(text, where, 1)


def _of_dataset(name: str, column: str) -> Iterator[str]:
    """The texts of a dataset on the hub, streamed."""
    datasets = require("datasets", f"Reading {name}")
    try:
        dataset: Any = datasets.load_dataset(name, split="train", streaming=True)
    except (OSError, ValueError, ConnectionError) as error:
        raise FormatError(
            f"no file or folder {name!r} here, and no dataset of that name can be "
            f"reached ({error})"
        ) from error
    return _of_rows(dataset, name, column)


def _of_rows(dataset: Any, name: str, column: str) -> Iterator[str]:
    texts = TextColumn(column)
    rows = enumerate(_readable(dataset, name), start=1)
    yield from texts.of_rows(rows, name)
    texts.finish(name, stacklevel=2)


def _readable(dataset: Any, name: str) -> Iterator[Any]:
    try:
        yield from dataset
    # The readers below datasets raise errors of their own, without a common base class.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise FormatError(
            f"{name} cannot be read to its end ({type(error).__name__}: {reason})"
        ) from error
