"""The door for values that users pass: one check, and one wording, per kind of value.

The functions named ``as_...`` convert a value without judging it. The others check it:
they take the value and the name that the user knows it by, return the value as Python's
own type, and raise an error that says what was expected and what came. Integers of
numpy and tensors with one integer are accepted wherever Python's integers are.

Public functions check their arguments here, once; the code behind them relies on that.
Modules write ``from sae_lens_ext import _arguments as arguments``, so that a check
reads ``arguments.positive_int(jobs, "jobs")``.
"""

import math
import operator
from collections.abc import Collection, Iterable, Mapping, Set
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext._described import described
from sae_lens_ext.errors import InvalidArgument, InvalidK

Number = int | float

_FLOATING_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def as_integer(value: object) -> int | None:
    """``value`` as an int; None for a bool, a float and anything else.

    >>> import numpy
    >>> as_integer(8), as_integer(numpy.int64(8)), as_integer(8.0), as_integer(True)
    (8, 8, None, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, Tensor) and value.dtype == torch.bool:
        return None
    try:
        return operator.index(value)  # pyright: ignore[reportArgumentType] - it raises TypeError
    except TypeError:
        return None


def as_integers(values: object) -> tuple[int, ...] | None:
    """An iterable of integers as a tuple; None if ``values`` is anything else.

    >>> as_integers(range(1, 4)), as_integers([1, 2.5]), as_integers("12")
    ((1, 2, 3), None, None)
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        return None
    if isinstance(values, Tensor) and values.ndim == 0:
        return None
    numbers = [as_integer(value) for value in values]
    integers = [number for number in numbers if number is not None]
    return tuple(integers) if len(integers) == len(numbers) else None


def as_real(value: object) -> float:
    """``value`` as a float; NaN for a bool, a tensor and anything else.

    >>> import numpy
    >>> as_real(2), as_real(numpy.float32(0.5)), as_real("2"), as_real(True)
    (2.0, 0.5, nan, nan)
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    number: Any = value
    try:
        return float(value)
    except OverflowError:
        # Integers of Python have no largest value; floats have.
        return math.inf if number > 0 else -math.inf


def as_python(value: Any) -> Any:
    """Tensors and numpy arrays as Python lists and numbers; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def integer(
    value: object,
    name: str,
    *,
    at_least: int | None = None,
    at_most: int | None = None,
) -> int:
    """An integer within bounds, both of which are allowed values.

    >>> integer(torch.tensor(3), "rows", at_least=1)
    3

    Raises:
        InvalidArgument: not an integer, or out of bounds.
    """
    number = as_integer(value)
    is_too_small = number is not None and at_least is not None and number < at_least
    is_too_large = number is not None and at_most is not None and number > at_most
    if number is None or is_too_small or is_too_large:
        expected = _integer_within(at_least, at_most)
        raise InvalidArgument(f"{name} must be {expected}; got {described(value)}")
    return number


def positive_int(value: object, name: str) -> int:
    """An integer of at least 1; see ``integer``."""
    return integer(value, name, at_least=1)


def integers(
    values: object, name: str, *, at_least: int | None = None
) -> tuple[int, ...]:
    """A tuple of integers from any iterable of them; see ``integer``."""
    numbers = as_integers(values)
    if numbers is None or (at_least is not None and any(n < at_least for n in numbers)):
        expected = (
            "integers" if at_least is None else f"integers of at least {at_least}"
        )
        raise InvalidArgument(
            f"{name} must be a list of {expected}; got {described(values)}"
        )
    return numbers


def finite(
    value: object,
    name: str,
    *,
    above: Number | None = None,
    at_least: Number | None = None,
    at_most: Number | None = None,
    below: Number | None = None,
) -> float:
    """A finite number within bounds: ``above`` and ``below`` exclude the bound itself.

    >>> finite(1, "lr", above=0)
    1.0

    Raises:
        InvalidArgument: not a number, infinite, NaN, or out of bounds.
    """
    number = as_real(value)
    # Compared, because torch.compile cannot trace math.isfinite of a varying number.
    is_valid = (
        -math.inf < number < math.inf
        and (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (at_most is None or number <= at_most)
        and (below is None or number < below)
    )
    if not is_valid:
        expected = _number_within(above, at_least, at_most, below)
        raise InvalidArgument(f"{name} must be {expected}; got {described(value)}")
    return number


def finite_numbers(
    values: object, name: str, *, at_least: Number = -math.inf
) -> tuple[float, ...]:
    """A tuple of finite numbers from any ordered collection of them; see ``finite``.

    >>> finite_numbers(torch.tensor([1.0, 0.5]), "weights", at_least=0)
    (1.0, 0.5)

    Raises:
        InvalidArgument: a set, a mapping, or anything but finite numbers within bounds.
    """
    items = as_python(values)
    numbers = [math.nan]
    if isinstance(items, Iterable) and not isinstance(items, str | Mapping | Set):
        numbers = [as_real(as_python(item)) for item in items]
    if not all(-math.inf < n < math.inf and n >= at_least for n in numbers):
        bound = "" if at_least == -math.inf else f" of at least {at_least:g}"
        raise InvalidArgument(
            f"{name} must be a list of finite numbers{bound}; got {described(values)}"
        )
    return tuple(numbers)


def fraction(value: object, name: str) -> float:
    """A number from 0 to 1, both allowed; see ``finite``."""
    return finite(value, name, at_least=0, at_most=1)


def flag(value: object, name: str) -> bool:
    """True or False, from Python, numpy or a tensor with one bool.

    Raises:
        InvalidArgument: anything else, 0 and 1 included.
    """
    boolean = as_python(value)
    if not isinstance(boolean, bool):
        raise InvalidArgument(f"{name} must be True or False; got {described(value)}")
    return boolean


def choice(value: Any, name: str, choices: Collection[str]) -> str:
    """One of a few strings.

    Raises:
        InvalidArgument: anything else.
    """
    if not isinstance(value, str) or value not in choices:
        raise InvalidArgument(
            f"{name} must be one of {', '.join(choices)}; got {described(value)}"
        )
    return value


def string(value: object, name: str) -> str:
    """A string.

    Raises:
        InvalidArgument: anything else.
    """
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} must be a string; got {described(value)}")
    return value


def device(value: Any, name: str = "device") -> torch.device:
    """A device on which tensors can be made: found out before hours of work, not after.

    Raises:
        InvalidArgument: no such device here, or ``meta``, which holds no numbers.
    """
    try:
        torch.empty(1, device=value)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InvalidArgument(
            f"{name} {str(value)!r} cannot be used here ({reason}); try cpu"
        ) from error
    if torch.device(value).type == "meta":
        raise InvalidArgument(f"{name} 'meta' holds shapes and no numbers; try cpu")
    return torch.device(value)


def dtype(value: object, name: str = "dtype") -> torch.dtype:
    """A floating-point dtype of at least 16 bits, from torch's object or its name.

    >>> dtype("bfloat16"), dtype(torch.float32)
    (torch.bfloat16, torch.float32)

    Raises:
        InvalidArgument: any other dtype, or an unknown name.
    """
    named = value
    if isinstance(value, str):
        named = getattr(torch, value.removeprefix("torch."), None)
    if not isinstance(named, torch.dtype) or named not in _FLOATING_DTYPES:
        raise InvalidArgument(
            f"{name} must be a floating-point dtype such as torch.float32 or "
            f"'bfloat16'; got {described(value)}"
        )
    return named


def k(value: object, d_sae: int, size_name: str = "d_sae") -> int:
    """A number of active features, from 1 to ``d_sae``.

    Raises:
        InvalidK: not an integer, or out of bounds.
    """
    number = as_integer(value)
    if number is None or not 1 <= number <= d_sae:
        expected = f"an integer from 1 to {size_name}={d_sae}"
        raise InvalidK(f"k must be {expected}; got {described(value)}")
    return number


def mask_length(features: Any) -> int | None:
    """The number of features that a boolean mask covers; None for anything else.

    >>> mask_length(torch.tensor([False, True, True])), mask_length([0, 1])
    (3, None)
    """
    values = as_python(features)
    is_mask = isinstance(values, list) and all(
        isinstance(value, bool) for value in values
    )
    return len(values) if is_mask and values else None


def features(value: Any, name: str = "features") -> tuple[int, ...]:
    """Feature numbers, from one number, from several, or from a boolean mask over all.

    >>> features(3), features([5, 1]), features(torch.tensor([False, True, True]))
    ((3,), (5, 1), (1, 2))

    Raises:
        InvalidArgument: negative or repeated numbers, none at all, or anything else.
    """
    numbers = as_python(value)
    if mask_length(numbers) is not None:
        numbers = [number for number, is_chosen in enumerate(numbers) if is_chosen]
    if not isinstance(numbers, list | tuple | range):
        numbers = [numbers]
    chosen = as_integers(numbers)
    if not chosen or min(chosen) < 0:
        raise InvalidArgument(
            f"{name} must be one or more non-negative integers, or a boolean mask over "
            f"all features; got {described(value)}"
        )
    if len(set(chosen)) < len(chosen):
        raise InvalidArgument(
            f"{name} must not repeat a feature; got {described(value)}"
        )
    return chosen


def _integer_within(at_least: int | None, at_most: int | None) -> str:
    if at_least is not None and at_most is not None:
        return f"an integer from {at_least} to {at_most}"
    if at_most is not None:
        return f"an integer of at most {at_most}"
    names = {None: "an integer", 0: "a non-negative integer", 1: "a positive integer"}
    return names.get(at_least, f"an integer of at least {at_least}")


def _number_within(
    above: Number | None,
    at_least: Number | None,
    at_most: Number | None,
    below: Number | None,
) -> str:
    bounds = {
        "above": above,
        "of at least": at_least,
        "of at most": at_most,
        "below": below,
    }
    stated = {words: bound for words, bound in bounds.items() if bound is not None}
    if not stated:
        return "a finite number"
    if at_most is None and below is None and 0 in stated.values():
        return "a positive number" if above == 0 else "a non-negative number"
    if list(stated) == ["of at least", "of at most"]:
        return f"a number from {at_least:g} to {at_most:g}"
    return "a number " + " and ".join(
        f"{words} {bound:g}" for words, bound in stated.items()
    )
