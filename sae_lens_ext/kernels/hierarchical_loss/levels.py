"""Which prefix lengths a loss counts, and how much each of them weighs."""

from collections.abc import Sequence

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument, InvalidK


def checked_levels(levels: Sequence[int] | None, k: int) -> list[int]:
    """Return the prefix lengths that count; all of 1 to k for None.

    >>> checked_levels(None, k=3), checked_levels([4, 2], k=4)
    ([1, 2, 3], [4, 2])

    Raises:
        InvalidK: a level is not an integer from 1 to k.
        InvalidArgument: there are no levels, or one is repeated.
    """
    if levels is None:
        return list(range(1, k + 1))

    numbers = arguments.as_integers(levels)
    if numbers is None or any(not 1 <= level <= k for level in numbers):
        # An iterator shows its numbers only after they were read.
        shown = levels if numbers is None else list(numbers)
        raise InvalidK(
            f"levels must be integers from 1 to k={k}, the number of features per "
            f"token; got {shown}"
        )
    if not numbers or len(set(numbers)) < len(numbers):
        raise InvalidArgument(
            "levels must have at least one prefix length, and each only once; "
            f"got {list(numbers)}"
        )
    return list(numbers)


def checked_weights(weights: Sequence[float] | None, n_levels: int) -> list[float]:
    """Return the weights of the levels, scaled to sum to 1; equal ones for None.

    >>> checked_weights(None, 4), checked_weights([3.0, 1.0], 2)
    ([0.25, 0.25, 0.25, 0.25], [0.75, 0.25])

    Raises:
        InvalidArgument: not one finite, non-negative number per level, or all are 0.
    """
    if weights is None:
        return [1.0 / n_levels] * n_levels

    numbers = arguments.finite_numbers(weights, "weights", at_least=0)
    if len(numbers) != n_levels:
        raise InvalidArgument(
            "weights must have one number per level; "
            f"got {len(numbers)} weights for {n_levels} levels"
        )
    largest = max(numbers)
    if largest == 0:
        raise InvalidArgument(f"weights must not all be 0; got {list(numbers)}")

    # Divided by the largest first, because the sum of large numbers can be infinite.
    ratios = [number / largest for number in numbers]
    total = sum(ratios)
    return [ratio / total for ratio in ratios]
