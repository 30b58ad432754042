"""Tokens as a reader sees them, one at a time."""

from collections.abc import Iterable
from typing import Any


def token_strings(tokenizer: Any, ids: Iterable[int]) -> dict[int, str]:
    """The text of each token, blanks at its beginning included.

    A token that is part of a character has the tokenizer's own name. Without a
    tokenizer, tokens are numbers in brackets.
    """
    return {number: _text(tokenizer, number) for number in ids}


def _text(tokenizer: Any, number: int) -> str:
    if not hasattr(tokenizer, "decode"):
        return f"[{number}]"
    piece = None
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        # Some vocabularies have fewer words than the model has logits.
        piece = tokenizer.convert_ids_to_tokens(number)
        if piece is None:
            return f"[{number}]"
    # SentencePiece's mark of a blank; decoding a single token drops it.
    if isinstance(piece, str) and "\u2581" in piece:
        return piece.replace("\u2581", " ")

    text = tokenizer.decode([number])
    if not text or "\ufffd" in text:
        return piece if isinstance(piece, str) and piece else f"[{number}]"
    return text
