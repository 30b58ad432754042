"""A text as a stream of rows, with a position from which it goes on exactly."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.text.packing import Packer, too_short
from sae_lens_ext.text.readers import document_reader
from sae_lens_ext.text.split import is_held_out


class TextRows:
    """Rows of token ids, made from documents as they are needed.

    ::

        rows = TextRows("my_texts", tokenizer, context=128)
        first = rows.next_rows(8)  # [8, 128]
        state = rows.state()  # JSON; a few numbers

    A row is a BOS token and consecutive tokens of one document, and what is left at the
    end of a document is dropped; or, with ``join_documents``, rows are cut from all
    documents as one text.

    Attributes:
        facts: what tells these rows from others, as JSON values: the documents, the
            tokenizer's vocabulary and the options.
        context: tokens in a row, BOS included.
        tokens_per_epoch: None, because it is not known before the text is read.
    """

    tokens_per_epoch: int | None = None

    def __init__(
        self,
        source: Any,
        tokenizer: Any,
        *,
        context: int = 128,
        column: str = "text",
        begin_with_bos: bool = True,
        join_documents: bool = False,
        held_out: bool | None = None,
    ) -> None:
        """Find the documents; none is read yet.

        Args:
            source: a file, a folder, the name of a dataset on the Hugging Face hub, or
                None, as in ``documents``; a dataset of ``datasets``, streamed or not;
                texts in a list or another iterable; or a function without arguments
                that returns an iterable of texts.
            tokenizer: a tokenizer of ``transformers``, such as ``model.tokenizer``.
            context: tokens in a row, BOS included.
            column: the column of files and datasets that holds the text.
            begin_with_bos: whether every row begins with the tokenizer's BOS token, if
                it has one.
            join_documents: whether what is left of a document goes into the next row,
                with the tokenizer's end-of-text token behind it.
            held_out: the side of ``split_documents`` to read; None reads all documents.

        Raises:
            FormatError: no such file, folder or dataset, or a folder without text.
            InvalidArgument: an invalid option, or an object that is not a tokenizer.
        """
        self._packer = Packer(
            tokenizer,
            context,
            begin_with_bos=begin_with_bos,
            join_documents=join_documents,
        )
        self._held_out = held_out
        if held_out is not None:
            self._held_out = arguments.flag(held_out, "held_out")
        self._reader = document_reader(source, column=column)
        self.context = self._packer.context
        self._options = {
            "vocabulary": _vocabulary(tokenizer),
            "context": self.context,
            "begin_with_bos": begin_with_bos,
            "join_documents": join_documents,
            "held_out": held_out,
        }
        self.start(0)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What tells these rows from others, as JSON values."""
        return {**self._reader.facts, **self._options}

    def start(self, epoch: int) -> None:
        """Go back to the first row, for the pass of this number."""
        self._reader.start(epoch)
        self._packer.carried = []
        self._begin_at(self._reader.state())
        self._has_given = False

    def next_rows(self, n_rows: int) -> Int[Tensor, "row context"] | None:
        """The next rows; fewer at the end of the text, and then None.

        Raises:
            InvalidArgument: the text is too short for a single row.
            FormatError: some of the text cannot be read.
        """
        rows: list[list[int]] = []
        while len(rows) < n_rows:
            if self._n_given == len(self._rows) and not self._read_document():
                break
            taken = self._rows[self._n_given : self._n_given + n_rows - len(rows)]
            self._n_given += len(taken)
            rows += taken

        if rows:
            self._has_given = True
            return torch.tensor(rows)
        if not self._has_given:
            raise too_short(self._packer)
        return None

    def state(self) -> dict[str, Any]:
        """Where the next row is; JSON values."""
        # Not the rows of a document, which may be a book: they are made again.
        if self._n_given == len(self._rows):
            self._begin_at(self._reader.state())
        return {
            "documents": self._before,
            "carried": list(self._carried_before),
            "rows": self._n_given,
            "has_given": self._has_given,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of rows that were made alike.

        Raises:
            FormatError: the documents have changed.
        """
        self._reader.restore(state["documents"])
        self._packer.carried = list(state["carried"])
        self._begin_at(state["documents"])
        if state["rows"]:
            self._read_document()
            self._n_given = state["rows"]
        self._has_given = state["has_given"]

    def _begin_at(self, documents: dict[str, Any]) -> None:
        """All rows of the documents before this state have been given."""
        self._before = documents
        self._carried_before = list(self._packer.carried)
        self._rows: list[list[int]] = []
        self._n_given = 0

    def _read_document(self) -> bool:
        """Make the rows of the next document; False at the end of the text."""
        before = self._reader.state()
        document = self._reader.next_document()
        while document is not None and not self._is_read(document):
            before = self._reader.state()
            document = self._reader.next_document()
        if document is None:
            return False

        self._begin_at(before)
        self._rows = self._packer.rows(document)
        return True

    def _is_read(self, document: str) -> bool:
        return self._held_out is None or is_held_out(document) == self._held_out


def _vocabulary(tokenizer: Any) -> str:
    """A digest of the tokenizer's words and their ids."""
    words: Mapping[str, int] = {}
    if hasattr(tokenizer, "get_vocab"):
        words = tokenizer.get_vocab()
    digest = hashlib.sha256()
    for word, number in sorted(words.items()):
        digest.update(f"{word}\0{number}\n".encode(errors="surrogatepass"))
    return f"{len(words)} words, {digest.hexdigest()[:16]}"
