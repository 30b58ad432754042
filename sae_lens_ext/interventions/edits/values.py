"""Numbers that edits hold, from what users pass, and how edits print them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.errors import InvalidArgument

Number = int | float
Numbers = Number | Sequence[Number] | Tensor
"""One number for all features, or one per feature."""

# Edits act in float32 at least, where a larger number is infinite.
_LARGEST = torch.finfo(torch.float32).max


def number(value: Any, name: str) -> float:
    """A number that is finite in float32, from Python, numpy or a tensor.

    >>> number(torch.tensor(2), "by")
    2.0

    Raises:
        InvalidArgument: anything else.
    """
    plain = arguments.as_python(value)
    checked = arguments.finite(plain, name)
    if abs(checked) > _LARGEST:
        raise InvalidArgument(
            f"{name} must be a finite number in float32; got {described(value)}"
        )
    return checked


def numbers(value: Any, name: str, n_features: int | None = None) -> tuple[float, ...]:
    """Several numbers, each as in ``number``: one per feature where that is asked for.

    >>> numbers(torch.ones(2), "vector")
    (1.0, 1.0)

    Raises:
        InvalidArgument: not numbers, none, or not one per feature.
    """
    if isinstance(value, Tensor) and value.requires_grad:
        raise InvalidArgument(
            f"{name} is a tensor that requires a gradient, and edits hold plain "
            f"numbers; give {name}.detach()"
        )

    values = arguments.as_python(value)
    is_valid = isinstance(values, list | tuple) and len(values) > 0
    if is_valid and n_features is not None:
        is_valid = len(values) == n_features
    if not is_valid:
        expected = "a list of numbers"
        if n_features is not None:
            expected = f"one number, or one for each of the {n_features} features"
        raise InvalidArgument(f"{name} must be {expected}; got {shown(value)}")

    if any(isinstance(item, list | tuple) for item in values):
        raise InvalidArgument(
            f"{name} must be a list of numbers, with one axis; got a list of lists"
        )
    return tuple(number(item, f"each of {name}") for item in values)


def number_or_numbers(
    value: Any, name: str, n_features: int
) -> float | tuple[float, ...]:
    """One number for all features as a float, or one per feature as a tuple.

    >>> number_or_numbers(2, "by", 3), number_or_numbers([1, 2, 3], "by", 3)
    (2.0, (1.0, 2.0, 3.0))

    Raises:
        InvalidArgument: as in ``number`` and ``numbers``.
    """
    if isinstance(value, Tensor) and value.requires_grad:
        # A single number too, for the error.
        return numbers(value, name, n_features)

    plain = arguments.as_python(value)
    if isinstance(plain, list | tuple):
        return numbers(value, name, n_features)
    return number(value, name)


def shown(value: Any) -> str:
    """A value of an edit as it is typed; long tuples by their length.

    >>> shown((1, 2)), shown((0.5,) * 640)
    ('[1, 2]', '<640 numbers>')
    """
    if not isinstance(value, tuple):
        return repr(value)
    if len(value) > 12:
        kind = "rows" if isinstance(value[0], tuple) else "numbers"
        return f"<{len(value)} {kind}>"
    return repr(list(value))
