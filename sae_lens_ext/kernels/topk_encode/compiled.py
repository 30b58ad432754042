"""The first k of every row in order, as loops that numba compiles.

1. Columns with one remainder modulo a width of at least 2k form a group. The maximum of
   every group is found in vector registers.
2. At least k columns are as large as the k-th largest of the maxima, so it bounds the
   k-th largest column from below, and closely.
3. Few columns reach the bound, and all that equal the k-th largest are among them. They
   are collected, and only they are sorted: by key, then by place.

Where columns have a floor, only the numbers above it are looked at, and there can be
fewer of them than k.

A key is a number of the row, with infinity for NaN. A place is its column; that of an
infinity counts on from the last column, so that NaN comes before it.

Maxima are kept by segments of a row, so that step 3 reads few segments again.
"""

from typing import no_type_check

import numba
import numpy as np
import torch
from torch import Tensor

from sae_lens_ext.kernels import _threads
from sae_lens_ext.kernels.topk_encode import groups
from sae_lens_ext.kernels.topk_encode.groups import DEPTH
from sae_lens_ext.kernels.topk_encode.sorting import (
    collect,
    find_maxima,
    merge_segments,
    select_first,
    sort,
)


def select(
    n_threads: int,
    pre: Tensor,
    floor: Tensor | None,
    values: Tensor,
    indices: Tensor,
) -> None:
    """A ``Select`` of ``cpu.py``, once it has a number of threads."""
    n_rows = len(pre)
    width = groups.width(values.shape[1])

    # Half precision in float32, because numpy lacks bfloat16.
    wide = pre if pre.dtype == torch.float64 else pre.float()
    largest = torch.empty(values.shape, dtype=wide.dtype)

    rows = wide.numpy()
    floors = None if floor is None else floor.to(wide.dtype).numpy()
    row_values = largest.numpy()
    row_indices = indices.numpy()

    pieces = _threads.pieces(n_rows, n_threads)

    def select_part(part: int) -> None:
        piece = pieces[part]
        _select(rows[piece], floors, row_values[piece], row_indices[piece], width)

    _threads.run(select_part, n_threads)
    values.copy_(largest)


# no_type_check keeps the tests' run-time shape checks from wrapping numba's functions.
@numba.njit(nogil=True, cache=True)
@no_type_check
def _select(rows, floors, values, indices, width):
    n_rows, n_columns = rows.shape
    k = values.shape[1]
    segment_size = width * DEPTH
    n_segments = -(-n_columns // segment_size)

    # Allocated once, and used again by every row.
    maxima = np.empty((n_segments, width), rows.dtype)
    overall = np.empty(width, rows.dtype)
    keys = np.empty(n_columns, rows.dtype)
    places = np.zeros(n_columns, np.int64)

    for r in range(n_rows):
        row = rows[r]
        if floors is None:
            find_maxima(row, maxima)
        else:
            _find_active_maxima(row, floors, maxima)
        merge_segments(maxima, overall)

        # Only the k-th largest maximum matters here, so any places will do; they are
        # overwritten below.
        select_first(overall, places, width, k)
        bound = overall[k - 1]

        if floors is None:
            n = collect(row, maxima, bound, keys, places)
        else:
            n = _collect_active(row, floors, maxima, bound, keys, places)
        n_selected = min(k, n)
        select_first(keys, places, n, n_selected)
        sort(keys, places, n_selected)

        # From the row rather than from the keys, where NaN is infinity.
        for j in range(n_selected):
            column = places[j] % n_columns
            values[r, j] = row[column]
            indices[r, j] = column
        values[r, n_selected:] = 0
        indices[r, n_selected:] = 0


@numba.njit(nogil=True, cache=True)
@no_type_check
def _find_active_maxima(row, floors, maxima):
    """As ``find_maxima``, of the numbers above their floors."""
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
            part_floors = floors[start:stop]
            for j in range(len(part)):
                # In this form NaN is above every floor, and stays.
                highest[j] = (
                    highest[j]
                    if part[j] <= part_floors[j]
                    or part[j] <= highest[j]
                    or highest[j] != highest[j]
                    else part[j]
                )


@numba.njit(nogil=True, cache=True)
@no_type_check
def _collect_active(row, floors, maxima, bound, keys, places):
    """As ``collect``, of the numbers above their floors."""
    n = 0
    n_columns = len(row)
    n_segments, width = maxima.shape
    segment_size = width * DEPTH
    for segment in range(n_segments):
        first = segment * segment_size
        last = min(first + segment_size, n_columns)

        for j in range(width):
            # With fewer than k active columns the bound is no bound, and most groups
            # have none.
            highest = maxima[segment, j]
            if highest < bound or highest == -np.inf:
                continue
            for column in range(first + j, last, width):
                number = row[column]
                if not (number < bound or number <= floors[column]):
                    keys[n] = number if number == number else np.inf
                    places[n] = column + n_columns if number == np.inf else column
                    n += 1
    return n
