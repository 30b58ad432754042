"""Documents to run a model on, from files, from a dataset, or from Python itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.text.column import TextColumn
from sae_lens_ext.text.contents import texts_of_file
from sae_lens_ext.text.files import TextFile, text_files
from sae_lens_ext.text.locations import hub_dataset, local_path, reading_dataset
from sae_lens_ext.text.standard_library import default_documents


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

    path = local_path(source)
    if path is None:
        return _of_dataset(str(source), column)
    return _of_files(path, text_files(path), column)


def _of_files(path: Path, files: list[TextFile], column: str) -> Iterator[str]:
    texts = TextColumn(column)
    # One file at a time, so that an error names the file.
    for file in files:
        yield from texts_of_file(file, texts)
    texts.finish(str(path), stacklevel=2)


def _of_dataset(name: str, column: str) -> Iterator[str]:
    """The texts of a dataset on the hub, streamed."""
    return _of_rows(hub_dataset(name), name, column)


def _of_rows(dataset: Any, name: str, column: str) -> Iterator[str]:
    texts = TextColumn(column)
    rows = enumerate(_readable(dataset, name), start=1)
    yield from texts.of_rows(rows, name)
    texts.finish(name, stacklevel=2)


def _readable(dataset: Any, name: str) -> Iterator[Any]:
    with reading_dataset(name):
        yield from dataset
