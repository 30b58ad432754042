"""How much each value of k counts in the hierarchical loss."""

from collections.abc import Sequence
from typing import Any, Literal

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.errors import InvalidArgument

Weights = (
    Literal["uniform", "half_on_largest", "ramp", "inverse", "relative"]
    | Sequence[float]
)
"""A rule, or one number per level."""

RULES = ("uniform", "half_on_largest", "ramp", "inverse", "relative")
"""The rules that have a name.

=============== ===============================================================
uniform         all alike
half_on_largest the largest weighs as much as all others together, which are
                alike
ramp            level j weighs j: the large ones count more
inverse         level j weighs 1 / j: the small ones count more
relative        level j weighs one over a running mean of its own error, so
                that all count by their relative errors
=============== ===============================================================
"""


def fixed_weights(weights: Weights, levels: Sequence[int]) -> list[float]:
    """The weights of the levels by any rule but "relative"; only ratios matter.

    >>> fixed_weights("inverse", [1, 2, 4]), fixed_weights([3.0, 1.0], [2, 8])
    ([1.0, 0.5, 0.25], [3.0, 1.0])
    >>> fixed_weights("half_on_largest", [1, 2, 4])
    [1.0, 1.0, 2.0]
    """
    if weights == "uniform":
        return [1.0] * len(levels)
    if weights == "half_on_largest":
        # A single level is the largest, and all there is.
        return [1.0] * (len(levels) - 1) + [max(1.0, len(levels) - 1.0)]
    if weights == "ramp":
        return [float(level) for level in levels]
    if weights == "inverse":
        return [1 / level for level in levels]
    return [float(weight) for weight in weights]


def checked_weights(value: Any, name: str) -> str | tuple[float, ...]:
    """The name of a rule, or a list of numbers as a tuple.

    Raises:
        InvalidArgument: anything else, or numbers that cannot be weights.
    """
    if isinstance(value, str):
        return arguments.choice(value, name, RULES)
    try:
        numbers = arguments.finite_numbers(value, name, at_least=0)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"{name} must be one of {', '.join(RULES)}, or a list of non-negative "
            f"numbers, one per level; got {described(value)}"
        ) from error
    if not any(numbers):
        raise InvalidArgument(f"{name} must not all be 0; got {list(numbers)}")
    return numbers
