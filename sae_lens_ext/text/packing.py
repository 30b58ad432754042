"""Rows of token ids from documents: one packer, for SAEs and for language models."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._tokenizers import check_tokenizer
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.text.checks import checked_documents
from sae_lens_ext.text.decoding import without_surrogates


class Packer:
    """Cuts documents into rows of ``context`` tokens, one document after the other.

    Attributes:
        context: tokens in a row, BOS included.
        join_documents: whether what is left of a document goes into the next row, with
            an end-of-text token behind it. Otherwise it is dropped.
        n_text: tokens of a row that are text.
        carried: ids that wait for the next document; always empty where documents are
            not joined.
    """

    def __init__(
        self,
        tokenizer: Any,
        context: int,
        *,
        begin_with_bos: bool = True,
        join_documents: bool = False,
        split_special_tokens: bool = False,
    ) -> None:
        """Check tokenizer and options.

        Args:
            tokenizer: a tokenizer of ``transformers``, such as ``model.tokenizer``.
            context: tokens in a row, BOS included.
            begin_with_bos: whether every row begins with the tokenizer's BOS token, if
                it has one.
            join_documents: see above.
            split_special_tokens: whether a special token that is spelled out in a text
                (``</s>``) is read as letters, and not as that token.

        Raises:
            InvalidArgument: an invalid option, or an object that is not a tokenizer or
                has no end-of-text token to join documents with.
        """
        self.context = arguments.integer(context, "context", at_least=2)
        check_tokenizer(tokenizer, "__call__", "bos_token_id")
        self._tokenizer = tokenizer
        self._options: dict[str, Any] = {"add_special_tokens": False}
        # Tokenizers of other libraries need not know this option.
        if arguments.flag(split_special_tokens, "split_special_tokens"):
            self._options.update(split_special_tokens=True, verbose=False)

        has_bos = arguments.flag(begin_with_bos, "begin_with_bos")
        bos = tokenizer.bos_token_id if has_bos else None
        self._start = [] if bos is None else [bos]
        self.n_text = self.context - len(self._start)
        self.join_documents = arguments.flag(join_documents, "join_documents")
        self._end = self._end_of_text()
        self.carried: list[int] = []

    def ids(self, document: str) -> list[int]:
        """The tokens of a document, with the end-of-text token if it is to be joined.

        Halves of characters (lone surrogates), which tokenizers do not accept, are read
        as U+FFFD.
        """
        text = without_surrogates(document)
        ids = self._tokenizer(text, **self._options)["input_ids"]
        return [*ids, *self._end]

    def rows(self, document: str) -> list[list[int]]:
        """The rows that are complete with this document."""
        ids = self.carried + self.ids(document)
        n_rows = len(ids) // self.n_text
        used = n_rows * self.n_text
        if self.join_documents:
            self.carried = ids[used:]
        return [
            self._start + ids[first : first + self.n_text]
            for first in range(0, used, self.n_text)
        ]

    def _end_of_text(self) -> list[int]:
        if not self.join_documents:
            return []
        end = getattr(self._tokenizer, "eos_token_id", None)
        if end is None:
            raise InvalidArgument(
                "the tokenizer has no eos token to put between documents; give another "
                "one, or join_documents=False"
            )
        return [end]


def pack(
    documents: Iterable[str],
    tokenizer: Any,
    *,
    n_rows: int,
    context: int = 128,
) -> Int[Tensor, "row context"]:
    """Cut documents into rows of ``context`` tokens.

    A row is a BOS token, where the tokenizer has one, and consecutive tokens of one
    document. A document gives as many whole rows as it has tokens for; the rest of it
    is dropped. Halves of characters (lone surrogates), which tokenizers do not accept,
    are read as U+FFFD.

    Args:
        documents: texts, read no further than they are needed.
        tokenizer: a tokenizer of ``transformers``, such as ``model.tokenizer``.
        n_rows: rows to make.
        context: tokens in a row, BOS included.

    Returns:
        ``n_rows`` rows, or fewer when the documents end before.

    Raises:
        InvalidArgument: ``n_rows`` below 1, ``context`` below 2, documents that are not
            texts, an object that is not a tokenizer, or documents too short for a
            single row.
    """
    n_rows = arguments.positive_int(n_rows, "n_rows")
    context = arguments.integer(context, "context", at_least=2)
    texts = checked_documents(documents)
    packer = Packer(tokenizer, context)

    rows: list[list[int]] = []
    for text in texts:
        rows += packer.rows(text)
        if len(rows) >= n_rows:
            break

    if not rows:
        raise too_short(packer)
    return torch.tensor(rows[:n_rows])


def too_short(packer: Packer) -> InvalidArgument:
    """The error for documents that do not give a single row."""
    subject = (
        "all documents together have less than"
        if packer.join_documents
        else ("no document has")
    )
    return InvalidArgument(
        f"{subject} the {packer.n_text} tokens of a single row; give longer documents "
        "or a smaller context"
    )
