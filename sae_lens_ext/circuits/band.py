"""The band around a number that comes of many draws."""

from typing import Any

import numpy

# The part of the draws that is left out at either end.
_TAIL = 0.025


def band(draws: Any) -> tuple[float, float]:
    """The ends of the band that holds 95% of some numbers.

    >>> band(range(101))
    (2.5, 97.5)
    """
    low, high = numpy.quantile(draws, [_TAIL, 1 - _TAIL])
    return float(low), float(high)
