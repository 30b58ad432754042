"""A fixed split of documents into those to train on and those held out."""

import hashlib
from collections.abc import Iterable, Iterator

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.text.checks import check_document, checked_documents


def split_documents(
    documents: Iterable[str], *, held_out: bool, one_in: int = 10
) -> Iterator[str]:
    """The documents of one side of the split.

    By a hash of the text, one document in ten is held out. No document is on both
    sides, and its side depends on nothing but its text.

    Raises:
        InvalidArgument: documents that are not texts, ``held_out`` is not a bool, or
            ``one_in`` is not an integer of at least 2.
    """
    held_out = arguments.flag(held_out, "held_out")
    one_in = arguments.integer(one_in, "one_in", at_least=2)
    texts = checked_documents(documents)
    return (text for text in texts if is_held_out(text, one_in=one_in) == held_out)


def is_held_out(text: str, *, one_in: int = 10) -> bool:
    """Whether the split holds a document out.

    Raises:
        InvalidArgument: ``text`` is not a string, or ``one_in`` is not an integer of at
            least 2.
    """
    one_in = arguments.integer(one_in, "one_in", at_least=2)
    check_document(text)

    # Lone surrogates, which text from broken files may hold, cannot be encoded.
    content = text.encode("utf-8", errors="replace")
    # Not hash(), which differs between processes.
    digest = hashlib.sha256(content).digest()
    number = int.from_bytes(digest[:8], "big")
    return number % one_in == 0
