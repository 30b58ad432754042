"""From documents to rows of token ids."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_ext._arguments import as_integer
from sae_lens_ext.errors import InvalidArgument


def split_documents(
    documents: Iterable[str], *, held_out: bool, one_in: int = 10
) -> Iterator[str]:
    """The documents of one side of a fixed split: by a hash of the text, one in ten is held out.

    No document is on both sides, and which side it is on depends on nothing but its text.
    """
    return (text for text in documents if is_held_out(text, one_in=one_in) == held_out)


def is_held_out(text: str, *, one_in: int = 10) -> bool:
    """Which side of that split a document is on.

    Raises:
        InvalidArgument: ``one_in`` below 2.
    """
    if (as_integer(one_in) or 0) < 2:
        raise InvalidArgument(
            f"one_in must be a whole number of at least 2; got {one_in!r}"
        )
    digest = hashlib.sha256(text.encode("utf-8", errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") % one_in == 0


def pack(
    documents: Iterable[str], tokenizer: Any, *, n_rows: int, context: int = 128
) -> Int[Tensor, "row context"]:
    """``n_rows`` rows of ``context`` tokens, each a BOS token, where the tokenizer has one, and a run of one document.

    A document gives as many whole rows as it has tokens for; what is left of it is dropped. Fewer rows come back when the
    documents run out.

    Raises:
        InvalidArgument: sizes below 1 and 2, or documents too short for a single row.
    """
    if (as_integer(n_rows) or 0) < 1 or (as_integer(context) or 0) < 2:
        raise InvalidArgument(
            f"packing needs n_rows of at least 1 and context of at least 2; got {n_rows!r} and {context!r}"
        )
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    length = context - len(start)
    rows: list[list[int]] = []
    for text in documents:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows += [
            start + ids[i : i + length] for i in range(0, len(ids) - length + 1, length)
        ]
        if len(rows) >= n_rows:
            break
    if not rows:
        raise InvalidArgument(
            f"no document has the {length} tokens of a single row; give longer documents or a smaller context"
        )
    return torch.tensor(rows[:n_rows])
