"""Which values of k count in the hierarchical loss."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.errors import InvalidArgument, InvalidK

Levels = Literal["all", "powers_of_two"] | Sequence[int]
"""All of them, those that are powers of two, or a list."""

NAMES = ("all", "powers_of_two")
"""The choices of levels that have a name."""


def levels_of(choice: Levels, stride: int, k: int) -> tuple[int, ...]:
    """The levels that count when the largest is ``k``, which always does.

    >>> levels_of("all", 1, 4), levels_of("all", 3, 8), levels_of("powers_of_two", 1, 6)
    ((1, 2, 3, 4), (3, 6, 8), (1, 2, 4, 6))

    Args:
        choice: which levels.
        stride: of all, every how manieth counts.
        k: the largest.

    Raises:
        InvalidK: listed levels do not rise to k.
    """
    if choice == "all":
        below = range(stride, k, stride)
        return (*below, k)
    if choice == "powers_of_two":
        powers = (1 << exponent for exponent in range(k.bit_length()))
        return (*(power for power in powers if power < k), k)

    levels = tuple(int(level) for level in choice)
    is_rising = list(levels) == sorted(set(levels))
    if not levels or not is_rising or levels[0] < 1 or levels[-1] != k:
        raise InvalidK(
            f"levels must rise from at least 1 to k={k}, the number of features to "
            f"train with; got {levels}"
        )
    return levels


def checked_levels(value: Any, name: str) -> str | tuple[int, ...]:
    """A name of levels, or a list as a tuple.

    Raises:
        InvalidArgument: anything else.
    """
    if isinstance(value, str) and value in NAMES:
        return value
    levels = arguments.as_integers(value)
    if levels is None:
        raise InvalidArgument(
            f"{name} must be 'all', 'powers_of_two' or a list of integers; "
            f"got {described(value)}"
        )
    is_rising = all(low < high for low, high in itertools.pairwise(levels))
    if not levels or levels[0] < 1 or not is_rising:
        raise InvalidArgument(
            f"{name} must rise from at least 1 to the largest k; got {list(levels)}"
        )
    return levels
