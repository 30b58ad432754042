"""Rows of token ids from documents."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.text.checks import checked_documents
from sae_lens_ext.text.decoding import without_surrogates


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
    _check_tokenizer(tokenizer)

    bos = tokenizer.bos_token_id
    start = [] if bos is None else [bos]
    length = context - len(start)
    rows: list[list[int]] = []
    for text in texts:
        whole = without_surrogates(text)
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        for first in range(0, len(ids) - length + 1, length):
            rows.append(start + ids[first : first + length])
        if len(rows) >= n_rows:
            break

    if not rows:
        raise InvalidArgument(
            f"no document has the {length} tokens of a single row; give longer "
            "documents or a smaller context"
        )
    return torch.tensor(rows[:n_rows])


def _check_tokenizer(tokenizer: Any) -> None:
    if not callable(tokenizer) or not hasattr(tokenizer, "bos_token_id"):
        kind = f"an object of type {type(tokenizer).__name__}"
        raise InvalidArgument(
            "tokenizer must be a tokenizer of transformers, such as "
            "AutoTokenizer.from_pretrained(name); got "
            f"{'None' if tokenizer is None else kind}"
        )
