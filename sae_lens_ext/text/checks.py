"""Checks of the documents that users pass, while they are read."""

from collections.abc import Iterable, Iterator
from typing import Any

from sae_lens_ext.errors import InvalidArgument


def checked_documents(documents: Any) -> Iterator[str]:
    """The documents, each checked when it is reached.

    Raises:
        InvalidArgument: a single text, or anything but an iterable of texts.
    """
    if isinstance(documents, str | bytes) or not isinstance(documents, Iterable):
        raise InvalidArgument(
            "documents must be a list or another iterable of texts; got "
            f"{_kind(documents)}; put a single text into a list"
        )
    return _checked(documents)


def check_document(document: Any, name: str = "text") -> None:
    """Check that a document is a string.

    Raises:
        InvalidArgument: it is not.
    """
    if not isinstance(document, str):
        raise InvalidArgument(f"{name} must be a string; got {_kind(document)}")


def _checked(documents: Iterable[Any]) -> Iterator[str]:
    for number, document in enumerate(documents):
        check_document(document, f"documents[{number}]")
        yield document


def _kind(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
