"""Numbers as people give them: Python's, numpy's, tensors of one; and what is none."""

import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, InvalidK


def whole_number(k: object) -> int | None:
    """``k`` as an int if it is a whole number of any kind, numpy's and tensors' included; None if it is a bool, a float or no number.

    >>> import numpy
    >>> whole_number(8), whole_number(numpy.int64(8)), whole_number(8.0), whole_number(True)
    (8, 8, None, None)
    """
    if isinstance(k, bool) or (isinstance(k, Tensor) and k.dtype == torch.bool):
        return None
    try:
        return operator.index(k)  # pyright: ignore[reportArgumentType] - raising TypeError is how it says no
    except TypeError:
        return None


def real_number(value: object) -> float:
    """``value`` as a float if it is a real number of any kind, numpy's included; NaN if it is none, as a bool and a tensor are.

    >>> import numpy
    >>> real_number(2), real_number(numpy.float32(0.5)), real_number("2"), real_number(True)
    (2.0, 0.5, nan, nan)
    """
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


def check_k(k: object, d_sae: int, name: str = "d_sae") -> int:
    """``k`` as an int; refuse what is not a whole number from 1 to ``d_sae``."""
    number = whole_number(k)
    if number is None:
        raise InvalidK(f"k must be a whole number from 1 to {name}={d_sae}; got {k!r} ({type(k).__name__})")
    if not 1 <= number <= d_sae:
        raise InvalidK(f"k must be from 1 to {name}={d_sae}; got {number}")
    return number


def whole_numbers(values: object) -> tuple[int, ...] | None:
    """Several whole numbers as a tuple of ints, from anything that can be looped over; None where one of them is none.

    >>> whole_numbers(range(1, 4)), whole_numbers([1, 2.5]), whole_numbers("12"), whole_numbers(3)
    ((1, 2, 3), None, None, None)
    """
    if isinstance(values, str) or not isinstance(values, Iterable) or (isinstance(values, Tensor) and values.ndim == 0):
        return None
    numbers = [whole_number(value) for value in values]
    found = [number for number in numbers if number is not None]
    return tuple(found) if len(found) == len(numbers) else None


def as_python(values: Any) -> Any:
    """Tensors and numpy's arrays and numbers as Python's lists and numbers; anything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values


def mask_length(features: Any) -> int | None:
    """How many features a boolean mask is over; None for anything else.

    >>> mask_length(torch.tensor([False, True, True])), mask_length([0, 1])
    (3, None)
    """
    given = as_python(features)
    return len(given) if isinstance(given, list) and given and all(isinstance(one, bool) for one in given) else None


def checked_features(features: Any) -> tuple[int, ...]:
    """Numbers of features: from one, from several, or from a boolean mask over all of them.

    >>> checked_features(3), checked_features([5, 1]), checked_features(torch.tensor([False, True, True]))
    ((3,), (5, 1), (1, 2))

    Raises:
        InvalidArgument: what is no feature, none, or one twice.
    """
    given = as_python(features)
    if mask_length(given) is not None:
        given = [number for number, chosen in enumerate(given) if chosen]
    numbers = [whole_number(feature) for feature in (given if isinstance(given, list | tuple | range) else [given])]
    if not numbers or any(number is None or number < 0 for number in numbers):
        raise InvalidArgument(f"features must be whole numbers from 0 on, at least one, or a mask over all; got {features!r}")
    if len(set(numbers)) < len(numbers):
        raise InvalidArgument(f"a feature can be named once; got {features!r}")
    return tuple(number for number in numbers if number is not None)
