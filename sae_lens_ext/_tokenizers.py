"""The check of a tokenizer that a user passes."""

from typing import Any

from sae_lens_ext.errors import InvalidArgument


def check_tokenizer(value: Any, *attributes: str) -> None:
    """Check that an object has what is needed of a tokenizer.

    Args:
        value: the object.
        attributes: names of what it must have.

    Raises:
        InvalidArgument: it does not have one of them.
    """
    if all(hasattr(value, name) for name in attributes):
        return
    kind = "None" if value is None else f"an object of type {type(value).__name__}"
    raise InvalidArgument(
        "tokenizer must be a tokenizer of transformers, such as "
        f"AutoTokenizer.from_pretrained(name); got {kind}"
    )
