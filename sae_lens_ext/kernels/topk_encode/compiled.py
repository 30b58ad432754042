"""The k largest of every row, as loops that numba compiles.

1. Columns with one remainder modulo a width of at least 2k form a group. The maximum of
   every group is found in vector registers.
2. At least k columns are as large as the k-th largest of the maxima, so it bounds the
   k-th largest column from below, and closely.
3. Few columns reach the bound. They are collected, and only they are sorted.

Maxima are kept by segments of a row, so that step 3 reads few segments again.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import no_type_check

import numba
import numpy as np
import torch
from torch import Tensor

# How many columns of a group one segment holds.
_DEPTH = 16


def saves_work(n_columns: int, k: int) -> bool:
    """Whether rows are so long, for this k, that reading them twice is worth it."""
    segment = _DEPTH * _width(k)
    return n_columns >= segment


@contextmanager
def selection(n_threads: int) -> Iterator[Callable[[Tensor, Tensor, Tensor], None]]:
    """Yield a ``Select`` of ``cpu.py`` that works with ``n_threads`` threads."""
    with ThreadPoolExecutor(n_threads) as pool:

        def select(pre: Tensor, values: Tensor, indices: Tensor) -> None:
            n_rows = len(pre)
            width = _width(values.shape[1])

            # Half precision in float32, because numpy lacks bfloat16.
            wide = pre if pre.dtype == torch.float64 else pre.float()
            largest = torch.empty(values.shape, dtype=wide.dtype)

            rows = wide.numpy()
            row_values = largest.numpy()
            row_indices = indices.numpy()

            def select_part(part: tuple[int, int]) -> None:
                first, last = part
                _select(
                    rows[first:last],
                    row_values[first:last],
                    row_indices[first:last],
                    width,
                )

            # Each thread gets as many rows as the others, or one more.
            edges = [n_rows * part // n_threads for part in range(n_threads + 1)]
            parts = itertools.pairwise(edges)

            # As a list, because map raises a thread's error only when its result is
            # asked for.
            list(pool.map(select_part, parts))
            values.copy_(largest)

        yield select


def _width(k: int) -> int:
    """How many groups there are: 2k, rounded up to whole vectors, and at least 64."""
    n_vectors = -(-2 * k // 32)
    return max(64, 32 * n_vectors)


# no_type_check keeps the tests' run-time shape checks from wrapping numba's functions.
@numba.njit(nogil=True, cache=True)
@no_type_check
def _select(rows, values, indices, width):
    n_rows, n_columns = rows.shape
    k = values.shape[1]
    segment_size = width * _DEPTH
    n_segments = -(-n_columns // segment_size)

    # Allocated once, and used again by every row.
    maxima = np.empty((n_segments, width), rows.dtype)
    overall = np.empty(width, rows.dtype)
    keys = np.empty(n_columns, rows.dtype)
    ids = np.empty(n_columns, np.int64)

    for r in range(n_rows):
        row = rows[r]
        _find_maxima(row, maxima)
        _merge_segments(maxima, overall)

        # Only the k-th largest maximum matters here; the ids are overwritten below.
        _largest_first(overall, ids, width, k)
        bound = overall[k - 1]

        n = _collect(row, maxima, bound, keys, ids)
        _largest_first(keys, ids, n, k)
        _sort(keys, ids, k)

        # From the row rather than from the keys, where NaN is infinity.
        for j in range(k):
            column = ids[j]
            values[r, j] = row[column]
            indices[r, j] = column


@numba.njit(nogil=True, cache=True)
@no_type_check
def _find_maxima(row, maxima):
    """Write the maximum of every group in every segment into ``maxima``."""
    n_segments, width = maxima.shape
    segment_size = width * _DEPTH
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
def _merge_segments(maxima, overall):
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
def _collect(row, maxima, bound, keys, ids):
    """Collect the columns that reach ``bound``, and return how many there are.

    NaN reaches every bound, and its key is infinity.
    """
    n = 0
    n_segments, width = maxima.shape
    segment_size = width * _DEPTH
    for segment in range(n_segments):
        first = segment * segment_size
        last = min(first + segment_size, len(row))

        for j in range(width):
            if maxima[segment, j] < bound:
                continue
            for column in range(first + j, last, width):
                number = row[column]
                # Not ">=", which NaN would fail.
                if not number < bound:
                    keys[n] = number if number == number else np.inf
                    ids[n] = column
                    n += 1
    return n


@numba.njit(nogil=True, cache=True)
@no_type_check
def _largest_first(keys, ids, n, k):
    """Bring the k largest of the first n keys to the front, and their ids with them.

    Hoare's quickselect.
    """
    low = 0
    high = n - 1
    while low < high:
        # The median of three is a good pivot for sorted keys too.
        first = keys[low]
        middle = keys[(low + high) // 2]
        last = keys[high]

        smaller = min(first, middle)
        larger = max(first, middle)
        pivot = max(smaller, min(larger, last))

        i = low
        j = high
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                ids[i], ids[j] = ids[j], ids[i]
                i += 1
                j -= 1

        # On with the side of the k-th key; between the two all keys equal the pivot.
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


@numba.njit(nogil=True, cache=True)
@no_type_check
def _sort(keys, ids, n):
    """Sort the first n keys, largest first, and their ids with them.

    Shell's sort, with Ciura's gaps.
    """
    for gap in (701, 301, 132, 57, 23, 10, 4, 1):
        for i in range(gap, n):
            key = keys[i]
            id_ = ids[i]
            j = i
            while j >= gap and keys[j - gap] < key:
                keys[j] = keys[j - gap]
                ids[j] = ids[j - gap]
                j -= gap
            keys[j] = key
            ids[j] = id_
