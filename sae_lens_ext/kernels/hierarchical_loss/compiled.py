"""The two passes of ``cpu.py`` as loops that numba compiles.

Each thread owns a range of coordinates for all tokens: the sums over tokens then need no locks, and run in the same order
every time, so the result does not vary from run to run with the same number of threads.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import no_type_check

import numba
import numpy as np
import torch
from torch import Tensor

from sae_lens_ext.kernels._prefetch import LINE, prefetch

# A thread with fewer coordinates than this spends more on starting rows than on reading them.
_MIN_COORDINATES = 64


def loss_and_gradients(
    values: Tensor, indices: Tensor, W_dec: Tensor, bias_error: Tensor, weights: Tensor, details: bool, n_threads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Same contract as ``cpu._loss_and_gradients``; the squared errors are those at every rank."""
    d_model = W_dec.shape[1]
    parts = max(1, min(n_threads, d_model // _MIN_COORDINATES))
    edges = [d_model * part // parts for part in range(parts + 1)]
    dots = torch.empty(parts, *values.shape, dtype=values.dtype)
    squares = torch.zeros(parts, values.shape[1], dtype=torch.float64)
    grad_W, suffix = torch.zeros_like(W_dec), torch.empty_like(bias_error)
    last_error = torch.empty_like(bias_error if details else bias_error[:0])
    arrays = [tensor.detach().contiguous().numpy() for tensor in (values, indices, W_dec, bias_error, weights)]

    def run(part: int) -> None:
        results = [tensor.numpy() for tensor in (dots[part], squares[part], grad_W, suffix, last_error)]
        _walk(*arrays, *results, edges[part], edges[part + 1])  # pyright: ignore[reportCallIssue] - it counts a list as one

    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(run, range(parts)))
    return squares.sum(0).to(values.dtype), last_error, dots.sum(0), grad_W, suffix


# Reassociation lets the dot products run in vector registers; NaN and infinity keep their meaning. (no_type_check keeps the
# run-time shape checks of the tests from wrapping what numba has to read.)
@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
@no_type_check
def _walk(values, indices, W_dec, bias_error, weights, dots, squares, grad_W, suffix, last_error, first, last):
    n_tokens, k = values.shape
    width = last - first
    error = np.empty(width, W_dec.dtype)
    tail = np.empty(width, W_dec.dtype)
    for token in range(n_tokens):
        for d in range(width):
            error[d] = bias_error[token, first + d]
            tail[d] = 0
        for rank in range(k):
            value = values[token, rank]
            row = W_dec[indices[token, rank], first:last]
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
        for rank in range(k - 1, -1, -1):
            value, weight = values[token, rank], weights[rank]
            row = W_dec[indices[token, rank], first:last]
            soon = indices[token, max(rank - 1, 0)]
            for d in range(first, last, LINE):
                prefetch(grad_W, soon, d)
                prefetch(W_dec, soon, d)
            grad_row = grad_W[indices[token, rank], first:last]
            dot = W_dec.dtype.type(0)
            for d in range(width):
                tail[d] += weight * error[d]
                dot += row[d] * tail[d]
                grad_row[d] += value * tail[d]
                error[d] -= value * row[d]
            dots[token, rank] = dot
        for d in range(width):
            suffix[token, first + d] = tail[d]
