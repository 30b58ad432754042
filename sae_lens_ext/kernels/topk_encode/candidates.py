"""The loops of ``screened.py``, which explains them, as numba compiles them."""

from typing import no_type_check

import numba
import numpy as np

from sae_lens_ext.kernels._prefetch import LINE, prefetch
from sae_lens_ext.kernels.topk_encode import groups
from sae_lens_ext.kernels.topk_encode.sorting import (
    collect,
    find_maxima,
    merge_segments,
    select_first,
    sort,
)

# A product of two float32 numbers is exact in float64. A sum in any order runs in
# vector registers.
_ANY_ORDER = {"reassoc", "contract"}
# Of the result in bfloat16: half a unit in the last place, relative to what is stored.
_RESULT_ERROR = np.float32(2.0**-8 * (1 + 2.0**-6))
_WITHOUT_SIGN = np.int32(0x7FFFFFFF)


# no_type_check keeps the tests' run-time shape checks from wrapping numba's functions.
@numba.njit(nogil=True, cache=True)
@no_type_check
def measure(rows, rounded, lengths, rests):
    """Write the length of every row, and of the part that rounding takes away."""
    n_columns = rows.shape[1]
    bits = np.empty(n_columns, np.int32)
    numbers = bits.view(np.float32)
    for r in range(len(rows)):
        for i in range(n_columns):
            bits[i] = np.int32(rounded[r, i]) << 16
        square, rest = _squares(rows[r], numbers)
        lengths[r] = np.sqrt(square)
        rests[r] = np.sqrt(rest)


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
@no_type_check
def _squares(row, rounded):
    square = 0.0
    rest = 0.0
    for i in range(len(row)):
        number = np.float64(row[i])
        difference = number - np.float64(rounded[i])
        square += number * number
        rest += difference * difference
    return square, rest


@numba.njit(nogil=True, cache=True)
@no_type_check
def select(
    products,
    rows,
    row_lengths,
    row_rests,
    values,
    indices,
    features,
    bias,
    shifted_bias,
    feature_lengths,
    feature_rests,
    tiny,
    width,
):
    """Write the first k of every row; arguments as in ``screened.encode``.

    Returns how many exact pre-activations that took.
    """
    n_rows, n_columns = products.shape
    d_model = rows.shape[1]
    k = values.shape[1]
    n_segments = -(-n_columns // (width * groups.DEPTH))

    # Allocated once, and used again by every row.
    bits = np.empty(n_columns, np.int32)
    upper = np.empty(n_columns, np.float32)
    maxima = np.empty((n_segments, width), np.float32)
    overall = np.empty(width, np.float32)
    keys = np.empty(n_columns, np.float32)
    places = np.zeros(n_columns, np.int64)
    row = np.empty(d_model, np.float64)
    longest = feature_lengths.max()
    longest_rest = feature_rests.max()

    n_computed = 0
    for r in range(n_rows):
        largest = _find_upper(
            products[r],
            shifted_bias,
            row_lengths[r],
            row_rests[r],
            feature_lengths,
            feature_rests,
            tiny,
            bits,
            upper,
        )
        distance = (
            row_rests[r] * longest
            + row_lengths[r] * longest_rest
            + _RESULT_ERROR * largest
            + tiny
        )
        find_maxima(upper, maxima)
        merge_segments(maxima, overall)
        # Only the k-th largest maximum matters here, so any places will do; they are
        # overwritten below.
        select_first(overall, places, width, k)
        n = collect(upper, maxima, overall[k - 1] - 2 * distance, keys, places)
        select_first(keys, places, n, k)

        for i in range(d_model):
            row[i] = rows[r, i]
        _compute(row, features, bias, keys, places, 0, k)
        bound = keys[0]
        for j in range(1, k):
            bound = min(bound, keys[j])

        n_left = k
        for j in range(k, n):
            if keys[j] >= bound:
                places[n_left] = places[j]
                n_left += 1
        _compute(row, features, bias, keys, places, k, n_left)
        n_computed += n_left

        select_first(keys, places, n_left, k)
        sort(keys, places, k)
        values[r] = keys[:k]
        indices[r] = places[:k]
    return n_computed


@numba.njit(nogil=True, cache=True)
@no_type_check
def products(features, vector, results):
    """Write the dot product of every feature with a vector in float64."""
    for j in range(len(features)):
        results[j] = _dot(vector, features[j])


@numba.njit(nogil=True, cache=True)
@no_type_check
def _find_upper(
    product,
    bias,
    row_length,
    row_rest,
    feature_lengths,
    feature_rests,
    tiny,
    bits,
    upper,
):
    """Write what each pre-activation is at most; return the largest absolute value."""
    numbers = bits.view(np.float32)
    largest = np.int32(0)
    for j in range(len(product)):
        bits[j] = np.int32(product[j]) << 16
        # Without the sign, bits are in the order of the numbers.
        largest = max(largest, bits[j] & _WITHOUT_SIGN)

    for j in range(len(product)):
        number = numbers[j]
        distance = (
            row_rest * feature_lengths[j]
            + row_length * feature_rests[j]
            + _RESULT_ERROR * abs(number)
            + tiny
        )
        upper[j] = number + bias[j] + distance
    # Written where it can be read as a number.
    bits[0] = largest
    return numbers[0]


@numba.njit(nogil=True, cache=True)
@no_type_check
def _compute(row, features, bias, keys, places, first, last):
    """Write the exact pre-activations of the places from ``first`` to ``last``."""
    if first < last:
        _ask_for(features, places[first])
    for j in range(first, last):
        if j + 1 < last:
            _ask_for(features, places[j + 1])
        column = places[j]
        exact = _dot(row, features[column]) + np.float64(bias[column])
        keys[j] = np.float32(exact)


@numba.njit(nogil=True, cache=True)
@no_type_check
def _ask_for(features, column):
    for start in range(0, features.shape[1], LINE):
        prefetch(features, column, start)


@numba.njit(nogil=True, cache=True, fastmath=_ANY_ORDER)
@no_type_check
def _dot(row, feature):
    total = 0.0
    for i in range(len(row)):
        total += row[i] * np.float64(feature[i])
    return total
