"""Loops that find the first entries of a row, and sort them, compiled by numba.

An entry has a key, by which it is sorted, and a place, which decides between equal
keys.
"""

from typing import no_type_check

import numba
import numpy as np

from sae_lens_ext.kernels.topk_encode.groups import DEPTH


# no_type_check keeps the tests' run-time shape checks from wrapping numba's functions.
@numba.njit(nogil=True, cache=True)
@no_type_check
def find_maxima(row, maxima):
    """Write the maximum of every group in every segment into ``maxima``."""
    n_segments, width = maxima.shape
    segment_size = width * DEPTH
    for segment in range(n_segments):
        first = segment * segment_size
        last = min(first + segment_size, len(row))
        highest = maxima[segment]
        highest[:] = -np.inf

        for start in range(first, last, width):
            stop = min(start + width, last)
            part = row[start:stop]
            for j in range(len(part)):
                # In this form NaN counts as larger than all numbers, and stays. It
                # is one expression, so that it runs in vector registers.
                highest[j] = (
                    highest[j]
                    if part[j] <= highest[j] or highest[j] != highest[j]
                    else part[j]
                )


@numba.njit(nogil=True, cache=True)
@no_type_check
def merge_segments(maxima, overall):
    """Write the maximum of every group into ``overall``; NaN counts as infinity."""
    n_segments, width = maxima.shape
    overall[:] = -np.inf
    for segment in range(n_segments):
        highest = maxima[segment]
        for j in range(width):
            overall[j] = highest[j] if highest[j] > overall[j] else overall[j]
            # NaN, which no comparison finds larger.
            if highest[j] != highest[j]:
                overall[j] = np.inf


@numba.njit(nogil=True, cache=True)
@no_type_check
def collect(row, maxima, bound, keys, places):
    """Collect the columns that reach ``bound``, and return how many there are.

    NaN reaches every bound.
    """
    n = 0
    n_columns = len(row)
    n_segments, width = maxima.shape
    segment_size = width * DEPTH
    for segment in range(n_segments):
        first = segment * segment_size
        last = min(first + segment_size, n_columns)

        for j in range(width):
            if maxima[segment, j] < bound:
                continue
            for column in range(first + j, last, width):
                number = row[column]
                # Not ">=", which NaN would fail.
                if not number < bound:
                    keys[n] = number if number == number else np.inf
                    places[n] = column + n_columns if number == np.inf else column
                    n += 1
    return n


@numba.njit(nogil=True, cache=True)
@no_type_check
def _precedes(key, place, other_key, other_place):
    """Whether the first of two entries comes first in order."""
    return key > other_key or (key == other_key and place < other_place)


@numba.njit(nogil=True, cache=True)
@no_type_check
def _swap(keys, places, i, j):
    keys[i], keys[j] = keys[j], keys[i]
    places[i], places[j] = places[j], places[i]


@numba.njit(nogil=True, cache=True)
@no_type_check
def select_first(keys, places, n, k):
    """Bring the first k in order of n entries to the front.

    Hoare's quickselect.
    """
    low = 0
    high = n - 1
    while low < high:
        # The median of three is a good pivot for sorted entries too.
        middle = (low + high) // 2
        if _precedes(keys[middle], places[middle], keys[low], places[low]):
            _swap(keys, places, low, middle)
        if _precedes(keys[high], places[high], keys[middle], places[middle]):
            _swap(keys, places, middle, high)
            if _precedes(keys[middle], places[middle], keys[low], places[low]):
                _swap(keys, places, low, middle)
        key = keys[middle]
        place = places[middle]

        i = low
        j = high
        while i <= j:
            while _precedes(keys[i], places[i], key, place):
                i += 1
            while _precedes(key, place, keys[j], places[j]):
                j -= 1
            if i <= j:
                _swap(keys, places, i, j)
                i += 1
                j -= 1

        # On with the side of the k-th entry; between the two all equal the pivot.
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


@numba.njit(nogil=True, cache=True)
@no_type_check
def sort(keys, places, n):
    """Sort the first n entries in order.

    Shell's sort, with Ciura's gaps.
    """
    for gap in (701, 301, 132, 57, 23, 10, 4, 1):
        for i in range(gap, n):
            key = keys[i]
            place = places[i]
            j = i
            while j >= gap and _precedes(key, place, keys[j - gap], places[j - gap]):
                keys[j] = keys[j - gap]
                places[j] = places[j - gap]
                j -= gap
            keys[j] = key
            places[j] = place
