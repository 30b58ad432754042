"""Documents with a position that can be saved, from every kind of source."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.text.checks import check_document
from sae_lens_ext.text.column import TextColumn
from sae_lens_ext.text.contents import texts_of_file
from sae_lens_ext.text.decoding import without_surrogates
from sae_lens_ext.text.files import TextFile, text_files
from sae_lens_ext.text.locations import hub_dataset, local_path, reading_dataset
from sae_lens_ext.text.resumable import Resumable, rewind
from sae_lens_ext.text.sketch import is_same, sketch
from sae_lens_ext.text.standard_library import default_documents


@runtime_checkable
class DocumentReader(Protocol):
    """Documents in a fixed order, one at a time.

    Attributes:
        facts: what tells these documents from others, as JSON values.
    """

    facts: Mapping[str, Any]

    def start(self, epoch: int) -> None:
        """Go back to the first document, for the pass of this number."""
        ...

    def next_document(self) -> str | None:
        """The next document; None at the end.

        Raises:
            FormatError: there is no text at all, or some of it cannot be read.
        """
        ...

    def state(self) -> dict[str, Any]:
        """How far the documents are read; JSON values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            FormatError: the documents have changed.
        """
        ...


def document_reader(source: Any = None, *, column: str = "text") -> DocumentReader:
    """A reader of documents.

    Args:
        source: anything that ``documents`` takes; a dataset of ``datasets``, streamed
            or not; texts in a list or another iterable; or a function without arguments
            that returns an iterable of texts.
        column: the column that holds the text, of files and datasets.

    Raises:
        FormatError: no such file, folder or dataset, or a folder without text.
        InvalidArgument: not a source of documents.
    """
    column = arguments.string(column, "column")
    if source is None:
        return IterableReader(default_documents, {"documents": "default"})
    if isinstance(source, str | Path):
        path = local_path(source)
        if path is not None:
            return FileReader(path, column)
        return DatasetReader(hub_dataset(str(source)), str(source), column)
    if _is_dataset(source):
        return DatasetReader(source, "the dataset", column, _beginning(source))

    is_iterable = isinstance(source, Iterable) and not isinstance(source, bytes)
    if not is_iterable and not callable(source):
        raise InvalidArgument(
            "documents must come from a file, a folder, a dataset, an iterable of "
            "texts or a function that returns one; got an object of type "
            f"{type(source).__name__}"
        )
    facts: dict[str, Any] = {"documents": type(source).__name__}
    if isinstance(source, list | tuple) and source:
        facts |= {"texts": len(source), "ends": sketch([source[0], source[-1]])}
    return IterableReader(source, facts)


class FileReader:
    """The documents of a file, or of the files below a folder."""

    def __init__(self, path: Path, column: str) -> None:
        """Find the files.

        Raises:
            FormatError: a folder without text, or a file of another kind.
        """
        self._path = path
        self._files = text_files(path)
        self._column = column
        self.facts: Mapping[str, Any] = _facts_of_files(path, self._files, column)
        self.start(0)

    def start(self, epoch: int) -> None:
        """See ``DocumentReader.start``."""
        self._texts = TextColumn(self._column)
        self._file = 0
        self._document = 0
        self._opened: Iterator[str] | None = None
        self._last: Any = None
        self._is_finished = False

    def next_document(self) -> str | None:
        """See ``DocumentReader.next_document``."""
        while self._file < len(self._files):
            if self._opened is None:
                self._opened = texts_of_file(self._files[self._file], self._texts)
            text = next(self._opened, None)
            if text is not None:
                self._document += 1
                self._last = sketch(text)
                return text
            self._file += 1
            self._document = 0
            self._opened = None

        if not self._is_finished:
            self._is_finished = True
            self._texts.finish(str(self._path), stacklevel=2)
        return None

    def state(self) -> dict[str, Any]:
        """See ``DocumentReader.state``."""
        state: dict[str, Any] = {"file": self._file, "document": self._document}
        state["texts"] = self._texts.n_texts
        if self._document:
            state["last"] = self._last
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """See ``DocumentReader.restore``: a file is read again up to the position."""
        self.start(0)
        self._file = state["file"]
        for _ in range(state["document"]):
            if self.next_document() is None or self._file != state["file"]:
                raise FormatError(
                    f"{self._path}: file {state['file'] + 1} of {len(self._files)} has "
                    f"fewer than the {state['document']} documents that were read of "
                    "it before; restore it, or begin anew"
                )
        if not is_same(state.get("last", self._last), self._last):
            raise FormatError(
                f"{self._path}: document {state['document']} of file "
                f"{state['file'] + 1} of {len(self._files)} is another one than "
                "before; restore it, or begin anew"
            )
        self._texts.n_texts = state["texts"]


class DatasetReader:
    """The documents of a dataset of the library ``datasets``."""

    def __init__(
        self,
        dataset: Any,
        name: str,
        column: str,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            dataset: the dataset.
            name: its name, for messages.
            column: the column that holds the text.
            facts: more of what tells it from others.

        Raises:
            FormatError: the dataset cannot be read.
        """
        with reading_dataset(name):
            self._rows = Resumable(dataset, name)
        self._name = name
        self._column = column
        self.facts: Mapping[str, Any] = {
            "dataset": name,
            "column": column,
            **(facts or {}),
        }
        self.start(0)

    def start(self, epoch: int) -> None:
        """See ``DocumentReader.start``."""
        self._rows.start(epoch)
        self._texts = TextColumn(self._column)
        self._number = 0
        self._is_finished = False

    def next_document(self) -> str | None:
        """See ``DocumentReader.next_document``."""
        with reading_dataset(self._name):
            for row in self._rows:
                self._number += 1
                numbered = [(self._number, row)]
                for text in self._texts.of_rows(numbered, self._name):
                    return text

        if not self._is_finished:
            self._is_finished = True
            self._texts.finish(self._name, stacklevel=2)
        return None

    def state(self) -> dict[str, Any]:
        """See ``DocumentReader.state``."""
        return {"rows": self._rows.state(), "texts": self._texts.n_texts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See ``DocumentReader.restore``."""
        self.start(0)
        with reading_dataset(self._name):
            self._rows.restore(state["rows"])
        self._number = state["rows"]["read"]
        self._texts.n_texts = state["texts"]


class IterableReader:
    """Texts that come from Python itself."""

    def __init__(self, texts: Any, facts: Mapping[str, Any]) -> None:
        """Nothing is read yet."""
        self._texts = Resumable(texts, "documents")
        self._n_texts = 0
        self.facts: Mapping[str, Any] = facts

    def start(self, epoch: int) -> None:
        """See ``DocumentReader.start``."""
        self._texts.start(epoch)
        self._n_texts = 0

    def next_document(self) -> str | None:
        """See ``DocumentReader.next_document``.

        Raises:
            InvalidArgument: a document is not a string.
        """
        for text in self._texts:
            check_document(text, f"documents[{self._n_texts}]")
            self._n_texts += 1
            return without_surrogates(text)
        return None

    def state(self) -> dict[str, Any]:
        """See ``DocumentReader.state``."""
        return self._texts.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """See ``DocumentReader.restore``."""
        self._texts.restore(state)
        self._n_texts = state["read"]


def _beginning(dataset: Any) -> dict[str, Any]:
    """What tells a dataset from others: its length, if it has one, and first row.

    Raises:
        FormatError: it has no rows.
    """
    name = "the dataset"
    with reading_dataset(name):
        rewind(dataset)
        first = next(iter(dataset), None)
        if first is None:
            raise FormatError(f"{name} has no rows")
        facts = {"first": sketch(first)}
        if hasattr(dataset, "to_iterable_dataset"):
            facts["rows"] = len(dataset)
    return facts


def _is_dataset(source: Any) -> bool:
    """Whether a source gives rows of columns: what ``datasets`` has, by its methods."""
    return hasattr(source, "to_iterable_dataset") or (
        hasattr(source, "load_state_dict") and hasattr(source, "features")
    )


def _facts_of_files(path: Path, files: list[TextFile], column: str) -> dict[str, Any]:
    """Names and sizes, so that a moved folder is the same and a longer file is not."""
    root = path if path.is_dir() else path.parent
    digest = hashlib.sha256()
    n_bytes = 0
    for file in files:
        size = file.path.stat().st_size
        n_bytes += size
        name = str(file.path.relative_to(root))
        digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
    return {
        "files": len(files),
        "bytes": n_bytes,
        "names_and_sizes": digest.hexdigest()[:16],
        "column": column,
    }
