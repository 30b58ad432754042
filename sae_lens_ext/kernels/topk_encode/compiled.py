"""The k largest of every row, as loops that numba compiles.

Columns with one remainder modulo a width of at least 2k are a group. At least k columns are as large as the k-th largest of the
groups' maxima, so it bounds the k-th largest column from below, and closely: few columns reach it, and only those are sorted.
The maxima are found in vector registers; they are kept by segments of a row, so that the second pass reads few segments again.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, no_type_check

import numba
import numpy as np
import torch
from torch import Tensor

# How many columns stand behind one maximum.
_DEPTH = 16


class Select(Protocol):
    """Writes the largest of every row of ``pre`` [rows, columns], and where they are, into ``values`` and ``indices`` [rows, k]."""

    def __call__(self, pre: Tensor, values: Tensor, indices: Tensor) -> None:
        """Select."""
        ...


def saves_work(n_columns: int, k: int) -> bool:
    """Whether rows are so long, for this k, that sorting them less is worth looking at them twice."""
    return n_columns >= _DEPTH * _width(k)


@contextmanager
def selection(n_threads: int) -> Iterator[Select]:
    """A ``Select`` and the threads it works with."""
    with ThreadPoolExecutor(n_threads) as pool:

        def select(pre: Tensor, values: Tensor, indices: Tensor) -> None:
            wide = pre if pre.dtype == torch.float64 else pre.float()
            found = torch.empty(values.shape, dtype=wide.dtype)
            arrays = wide.numpy(), found.numpy(), indices.numpy()
            edges = [len(wide) * part // n_threads for part in range(n_threads + 1)]
            parts = [
                [array[first:last] for array in arrays]
                for first, last in itertools.pairwise(edges)
            ]
            width = _width(values.shape[1])
            list(pool.map(lambda part: _select(*part, width), parts))  # pyright: ignore[reportCallIssue] - it counts a list as one
            values.copy_(found)

        yield select


def _width(k: int) -> int:
    return max(64, -(-2 * k // 32) * 32)


# (no_type_check keeps the run-time shape checks of the tests from wrapping what numba has to read.)
@numba.njit(nogil=True, cache=True)
@no_type_check
def _select(rows, values, indices, width):
    n_columns, k = rows.shape[1], values.shape[1]
    step = width * _DEPTH
    n_segments = -(-n_columns // step)
    maxima = np.empty((n_segments, width), rows.dtype)
    overall = np.empty(width, rows.dtype)
    keys, ids = np.empty(n_columns, rows.dtype), np.empty(n_columns, np.int64)
    for r in range(rows.shape[0]):
        row = rows[r]
        for segment in range(n_segments):
            first, last = segment * step, min((segment + 1) * step, n_columns)
            highest = maxima[segment]
            highest[:] = -np.inf
            for start in range(first, last, width):
                part = row[start : min(start + width, last)]
                for j in range(len(part)):
                    # In this form NaN counts as larger than all numbers, and stays.
                    highest[j] = (
                        highest[j]
                        if part[j] <= highest[j] or highest[j] != highest[j]
                        else part[j]
                    )
        overall[:] = -np.inf
        for segment in range(n_segments):
            highest = maxima[segment]
            for j in range(width):
                overall[j] = highest[j] if highest[j] > overall[j] else overall[j]
                if highest[j] != highest[j]:
                    overall[j] = np.inf
        _largest_first(overall, ids, width, k)
        bound = overall[k - 1]
        n = 0
        for segment in range(n_segments):
            first, last = segment * step, min((segment + 1) * step, n_columns)
            for j in range(width):
                if not maxima[segment, j] < bound:
                    for column in range(first + j, last, width):
                        if not row[column] < bound:
                            keys[n] = (
                                row[column] if row[column] == row[column] else np.inf
                            )
                            ids[n] = column
                            n += 1
        _largest_first(keys, ids, n, k)
        _sort(keys, ids, k)
        for j in range(k):
            values[r, j], indices[r, j] = row[ids[j]], ids[j]


@numba.njit(nogil=True, cache=True)
@no_type_check
def _largest_first(keys, ids, n, k):
    """Bring the k largest of the first n keys to the front, and their ids with them (Hoare's quickselect)."""
    low, high = 0, n - 1
    while low < high:
        a, b, c = keys[low], keys[(low + high) // 2], keys[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
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
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


@numba.njit(nogil=True, cache=True)
@no_type_check
def _sort(keys, ids, n):
    """Sort the first n keys, largest first, and their ids with them (Shell's sort, with Ciura's gaps)."""
    for gap in (701, 301, 132, 57, 23, 10, 4, 1):
        for i in range(gap, n):
            key, which = keys[i], ids[i]
            j = i
            while j >= gap and keys[j - gap] < key:
                keys[j], ids[j] = keys[j - gap], ids[j - gap]
                j -= gap
            keys[j], ids[j] = key, which
