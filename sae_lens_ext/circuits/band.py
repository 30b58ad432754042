"""The band around a number that comes of many draws."""

from typing import Any

import numpy

# The part of the draws that is left out at either end.
_TAIL = 0.025


def band(draws: Any) -> tuple[float, float]:
    """The ends of the band that holds 95% of the finite ones of some numbers.

    NaN if none is: a draw in which there is nothing to explain has no share of it.

    >>> band([*range(101), numpy.nan])
    (2.5, 97.5)
    """
    draws = numpy.asarray(draws, dtype=float)
    draws = draws[numpy.isfinite(draws)]
    if not len(draws):
        return numpy.nan, numpy.nan
    low, high = numpy.quantile(draws, [_TAIL, 1 - _TAIL])
    return float(low), float(high)
