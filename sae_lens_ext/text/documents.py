"""Documents to run a model on, from files, from a dataset, or from Python itself."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError
from sae_lens_ext.text.standard_library import default_documents

_LOADER_OF_SUFFIX = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "json",
    ".json": "json",
    ".parquet": "parquet",
}


def documents(
    source: str | Path | None = None, *, column: str = "text"
) -> Iterator[str]:
    """Texts, one document at a time.

    Args:
        source: a text, JSONL or Parquet file, or a folder that is searched for such
            files; otherwise the name of a dataset on the Hugging Face hub, which is
            streamed; None for ``default_documents``.
        column: the column of JSONL files, Parquet files and datasets that holds the
            text.

    Raises:
        FormatError: ``source`` holds no such file, cannot be read or reached, or has no
            column of that name.
        MissingDependency: the datasets library is needed and not installed.
    """
    if source is None:
        yield from default_documents()
        return

    for rows in _sources_of_rows(source, column):
        for row in rows:
            if column not in row:
                raise FormatError(
                    f"{source} has no column {column!r}; it has {', '.join(row)}"
                )
            if isinstance(row[column], str):
                yield row[column]


def _sources_of_rows(source: str | Path, column: str) -> Iterator[Iterable[Any]]:
    """The rows of every file, or of the dataset."""
    if not isinstance(source, str | Path) or not str(source).strip():
        raise FormatError(
            "source must be a file, a folder or the name of a dataset to read text "
            f"from; got {source!r}"
        )

    datasets = require("datasets", f"Reading {source}")
    path = Path(source).expanduser()
    if not path.exists():
        yield _dataset(datasets, str(source))
        return

    # One file at a time, so that an error names the file.
    for file in _text_files(path):
        yield _rows_of_file(datasets, file, column)


def _text_files(path: Path) -> list[Path]:
    """The files with text among a file, or those below a folder, in a fixed order."""
    candidates = [path] if path.is_file() else path.rglob("*")
    files = sorted(file for file in candidates if file.suffix in _LOADER_OF_SUFFIX)
    if not files:
        raise FormatError(
            f"{path} holds no {', '.join(_LOADER_OF_SUFFIX)} file to read text from"
        )
    return files


def _dataset(datasets: Any, name: str) -> Iterable[Any]:
    """The rows of a dataset on the hub, streamed."""
    try:
        return datasets.load_dataset(name, split="train", streaming=True)
    except (OSError, ValueError, ConnectionError) as error:
        raise FormatError(
            f"no file or folder {name!r} here, and no dataset of that name can be "
            f"reached ({error})"
        ) from error


def _rows_of_file(datasets: Any, file: Path, column: str) -> Iterator[Any]:
    """The rows of a file; its reader's errors become ``FormatError`` with the path."""
    loader = _LOADER_OF_SUFFIX[file.suffix]
    if loader == "text":
        yield {column: file.read_text(encoding="utf-8", errors="replace")}
        return
    try:
        yield from datasets.load_dataset(
            loader, data_files=str(file), split="train", streaming=True
        )
    # The readers below datasets raise errors of their own, without a common base class.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise FormatError(
            f"{file} cannot be read to its end ({type(error).__name__}: {reason})"
        ) from error
