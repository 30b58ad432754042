"""Values in messages."""

from torch import Tensor

# Of a value in a message, in characters.
_LONGEST = 120
# Of which the beginning of the repr says something.
_PLAIN = (str, bytes, list, tuple, dict, set)


def described(value: object) -> str:
    """A value in a message: its repr, cut short; tensors and models by what they are.

    >>> import torch
    >>> described(0.5), described(torch.ones(2, 3)), described("a" * 999)[:4]
    ('0.5', 'a torch.float32 tensor [2, 3]', "'aaa")
    """
    if isinstance(value, Tensor) and value.ndim:
        return f"a {value.dtype} tensor {list(value.shape)}"
    text = repr(value)
    if "\n" in text or (len(text) > _LONGEST and not isinstance(value, _PLAIN)):
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
