"""The two passes of ``cpu.py`` as loops that numba compiles.

Each thread owns coordinates of all tokens. So the sums over tokens need no locks, and
run in the same order every time: with the same number of threads the result is always
the same.

Where features are chosen often, a thread copies one narrow piece of all rows together,
so that its own cache holds it, and walks over all tokens there before it takes the next
piece (``_walk_pieces``). Where they are chosen seldom, that would cost more than it
saves; rows are then read where they are, each asked for one rank ahead
(``_walk_rows``).
"""

from typing import Any, no_type_check

import numba
import numpy as np
import torch
from torch import Tensor

from sae_lens_ext.kernels import _threads
from sae_lens_ext.kernels._prefetch import LINE, prefetch
from sae_lens_ext.kernels.hierarchical_loss.chunked import Walked
from sae_lens_ext.kernels.hierarchical_loss.vectors import LANES
from sae_lens_ext.kernels.hierarchical_loss.walk import WIDTH, walk_token

# How often a feature is chosen in a batch for pieces to be as fast as rows: about once
# with 8,192 rows of 640 floats, six times with 65,536, whose pieces no cache holds.
_OFTEN = 4
# A thread with fewer coordinates than this spends more on starting rows than on reading
# them.
_MIN_COORDINATES = 64
# Squares are summed in single precision for so many tokens at most.
_TOKENS = 256
# Pieces lie a whole row apart, which no processor predicts; asking for them so many
# rows ahead makes the copies twice as fast.
_AHEAD = 24


def walk(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    bias_error: Tensor,
    weights: Tensor,
    details: bool,
    n_threads: int,
) -> Walked:
    """Same as ``chunked.walk``, with the squares at all ranks."""
    n, k = values.shape
    d_sae, d_model = W_dec.shape
    walk_part: Any
    if values.numel() >= _OFTEN * d_sae:
        walk_part = _walk_pieces
        most_parts = -(-d_model // WIDTH)
        # Every row is written.
        grad_W = torch.empty_like(W_dec)
    else:
        walk_part = _walk_rows
        most_parts = d_model // _MIN_COORDINATES
        # Only the rows of chosen features are added to.
        grad_W = torch.zeros_like(W_dec)
    n_parts = max(1, min(n_threads, most_parts))

    # One of each per thread; what threads share, they write in different coordinates.
    dots = torch.zeros(n_parts, n, k, dtype=values.dtype)
    squares = torch.zeros(n_parts, k, dtype=torch.float64)
    suffix = torch.empty_like(bias_error)
    # Without any row if it is not needed, because numba's loops take an array.
    last_error = torch.empty_like(bias_error if details else bias_error[:0])

    inputs = [
        tensor.detach().contiguous().numpy()
        for tensor in (values, indices, W_dec, bias_error, weights)
    ]

    of_parts = (dots.numpy(), squares.numpy())
    shared = (grad_W.numpy(), suffix.numpy(), last_error.numpy())

    def run(part: int) -> None:
        own = (array[part] for array in of_parts)
        walk_part(*inputs, *own, *shared, part, n_parts)

    _threads.run(run, n_parts)

    total_squares = squares.sum(0)
    return Walked(
        total_squares.to(values.dtype),
        last_error,
        dots.sum(0),
        grad_W,
        suffix,
    )


# no_type_check keeps the tests' run-time shape checks from wrapping numba's functions.
@numba.njit(nogil=True, cache=True)
@no_type_check
def _walk_pieces(
    values,
    indices,
    W_dec,
    bias_error,
    weights,
    dots,
    squares,
    grad_W,
    suffix,
    last_error,
    part,
    n_parts,
):
    n_tokens, k = values.shape
    n_rows, d_model = W_dec.shape

    # The thread's own, side by side: the piece of all rows, and its gradient.
    table = np.empty((n_rows, WIDTH), W_dec.dtype)
    grads = np.empty((n_rows, WIDTH), W_dec.dtype)
    error = np.empty(WIDTH, W_dec.dtype)
    tail = np.empty(WIDTH, W_dec.dtype)
    lanes = np.zeros((k, LANES), W_dec.dtype)

    for start in range(part * WIDTH, d_model, n_parts * WIDTH):
        width = min(WIDTH, d_model - start)
        _read_piece(W_dec, table, start, width)
        grads[:] = 0

        for token in range(n_tokens):
            # The last piece may be narrower than the vectors of the walk.
            error[width:] = 0
            for d in range(width):
                error[d] = bias_error[token, start + d]

            walk_token(
                values,
                indices,
                table,
                grads,
                weights,
                dots,
                lanes,
                error,
                tail,
                token,
            )

            for d in range(width):
                suffix[token, start + d] = tail[d]
            if len(last_error) > 0:
                for d in range(width):
                    last_error[token, start + d] = error[d]

            is_full = token % _TOKENS == _TOKENS - 1
            is_last = token == n_tokens - 1
            if is_full or is_last:
                for rank in range(k):
                    for lane in range(LANES):
                        squares[rank] += lanes[rank, lane]
                lanes[:] = 0

        _write_piece(grads, grad_W, start, width)


# Loops in these two instead of slices, which numba copies more slowly.
@numba.njit(nogil=True, cache=True)
@no_type_check
def _read_piece(W_dec, table, start, width):
    """Copy the coordinates from ``start`` on of all rows into ``table``."""
    n_rows = W_dec.shape[0]
    table[:, width:] = 0
    for row in range(n_rows):
        soon = min(row + _AHEAD, n_rows - 1)
        for d in range(start, start + width, LINE):
            prefetch(W_dec, soon, d)
        for d in range(width):
            table[row, d] = W_dec[row, start + d]


@numba.njit(nogil=True, cache=True)
@no_type_check
def _write_piece(grads, grad_W, start, width):
    """Copy ``grads`` to the coordinates from ``start`` on of all rows."""
    n_rows = grad_W.shape[0]
    for row in range(n_rows):
        soon = min(row + _AHEAD, n_rows - 1)
        for d in range(start, start + width, LINE):
            prefetch(grad_W, soon, d)
        for d in range(width):
            grad_W[row, start + d] = grads[row, d]


# Reassociation lets the dot products run in vector registers; NaN and infinity keep
# their meaning.
@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
@no_type_check
def _walk_rows(
    values,
    indices,
    W_dec,
    bias_error,
    weights,
    dots,
    squares,
    grad_W,
    suffix,
    last_error,
    part,
    n_parts,
):
    n_tokens, k = values.shape
    d_model = W_dec.shape[1]

    # Each thread gets as many coordinates as the others, or one more.
    first = d_model * part // n_parts
    last = d_model * (part + 1) // n_parts
    width = last - first
    error = np.empty(width, W_dec.dtype)
    tail = np.empty(width, W_dec.dtype)

    for token in range(n_tokens):
        for d in range(width):
            error[d] = bias_error[token, first + d]
            tail[d] = 0

        # Up the ranks: the error of every prefix, and its square.
        for rank in range(k):
            value = values[token, rank]
            feature = indices[token, rank]
            row = W_dec[feature, first:last]

            soon = indices[token, min(rank + 1, k - 1)]
            for d in range(first, last, LINE):
                prefetch(W_dec, soon, d)

            square = W_dec.dtype.type(0)
            for d in range(width):
                error[d] += value * row[d]
                square += error[d] * error[d]
            squares[rank] += square

        if len(last_error) > 0:
            last_error[token, first:last] = error

        # Down the ranks: the gradients, and the error of the prefix before.
        for rank in range(k - 1, -1, -1):
            value = values[token, rank]
            weight = weights[rank]
            feature = indices[token, rank]
            row = W_dec[feature, first:last]
            grad_row = grad_W[feature, first:last]

            soon = indices[token, max(rank - 1, 0)]
            for d in range(first, last, LINE):
                prefetch(grad_W, soon, d)
                prefetch(W_dec, soon, d)

            # A zero of the rows' type: another type would widen the loop.
            dot = W_dec.dtype.type(0)
            for d in range(width):
                tail[d] += weight * error[d]
                dot += row[d] * tail[d]
                grad_row[d] += value * tail[d]
                error[d] -= value * row[d]
            dots[token, rank] = dot

        for d in range(width):
            suffix[token, first + d] = tail[d]
