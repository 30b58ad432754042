"""Documents to run a model on."""

import ast
import itertools
import pydoc_data.topics
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError

_LOADER_OF_SUFFIX = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "json",
    ".json": "json",
    ".parquet": "parquet",
}
# Modules whose docstrings say little, or that are not documentation of anything in use.
_SKIPPED_FOLDERS = {
    "test",
    "tests",
    "site-packages",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "__pycache__",
    "ensurepip",
}
_SHORTEST = 400


def documents(
    source: str | Path | None = None, *, column: str = "text"
) -> Iterator[str]:
    """Texts, one document at a time.

    Args:
        source: a text, JSONL or Parquet file, or a folder of such files, searched through; otherwise the name of a dataset on the
            Hugging Face hub, streamed; None for ``default_documents``.
        column: where JSONL files, Parquet files and datasets keep the text.

    Raises:
        FormatError: a path that exists and holds no such file, or files without that column.
        MissingDependency: the datasets library is needed and not installed.
    """
    if source is None:
        yield from default_documents()
        return
    if not isinstance(source, str | Path) or not str(source).strip():
        raise FormatError(
            f"give a file, a folder or the name of a dataset to read text from; got {source!r}"
        )
    datasets = require("datasets", f"Reading {source}")
    path = Path(source).expanduser()
    if path.exists():
        files = sorted(
            file
            for file in ([path] if path.is_file() else path.rglob("*"))
            if file.suffix in _LOADER_OF_SUFFIX
        )
        if not files:
            raise FormatError(
                f"{path} holds no {', '.join(_LOADER_OF_SUFFIX)} file to read text from"
            )
        streams = (_rows_of_file(datasets, file, column) for file in files)
    else:
        try:
            streams = iter(
                [datasets.load_dataset(str(source), split="train", streaming=True)]
            )
        except (OSError, ValueError, ConnectionError) as error:
            raise FormatError(
                f"no file or folder {str(source)!r} here, and no dataset of that name can be reached ({error})"
            ) from error
    for stream in streams:
        for row in stream:
            if column not in row:
                raise FormatError(
                    f"{source} has no column {column!r}; it has {', '.join(row)}"
                )
            if isinstance(row[column], str):
                yield row[column]


def default_documents() -> Iterator[str]:
    """Prose that every Python has: the language reference's topics, in turns with the standard library's docstrings.

    About 1.3 million characters, in a fixed order; the text differs a little between Python versions. Modules are parsed, never
    imported.
    """
    topics = (text for _, text in sorted(pydoc_data.topics.topics.items()))
    for pair in itertools.zip_longest(topics, _docstrings()):
        yield from (text for text in pair if text)


def _docstrings() -> Iterator[str]:
    """One document per standard library module that has enough to say."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(root.rglob("*.py")):
        if _SKIPPED_FOLDERS & set(file.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        found = (
            ast.get_docstring(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        )
        text = "\n\n".join(
            docstring
            for docstring in found
            if docstring and len(docstring) >= _SHORTEST // 4
        )
        if len(text) >= _SHORTEST:
            yield text


def _rows_of_file(datasets: Any, file: Path, column: str) -> Iterator[Any]:
    """The rows of one file; whatever the reader of a broken one says is said of that file."""
    if _LOADER_OF_SUFFIX[file.suffix] == "text":
        yield {column: file.read_text(encoding="utf-8", errors="replace")}
        return
    try:
        yield from datasets.load_dataset(
            _LOADER_OF_SUFFIX[file.suffix],
            data_files=str(file),
            split="train",
            streaming=True,
        )
    except Exception as error:  # the readers below datasets raise errors of their own making, which have no common base
        said = " ".join(str(error).split())[:200]
        raise FormatError(
            f"{file} cannot be read to its end ({type(error).__name__}: {said})"
        ) from error
