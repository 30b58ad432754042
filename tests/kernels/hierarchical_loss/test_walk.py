"""The instructions of a walk compute what the README derives.

Vectors and prefetching are tested by a walk too: they only exist inside compiled code.
"""

import numba
import numpy as np

from sae_lens_ext.kernels._prefetch import prefetch
from sae_lens_ext.kernels.hierarchical_loss.vectors import LANES
from sae_lens_ext.kernels.hierarchical_loss.walk import WIDTH, walk_token

K = 3
TOKEN = 1


@numba.njit
def walk(*arrays):
    # A row that the table does not have is no error.
    prefetch(arrays[2], 1000, 0)
    walk_token(*arrays, TOKEN)


def test_one_token():
    rng = np.random.default_rng(0)
    values = rng.random((2, K))
    indices = np.array([[0, 0, 0], [4, 2, 0]])
    table = rng.standard_normal((5, WIDTH))
    weights = rng.random(K)
    bias_error = rng.standard_normal(WIDTH)

    grads = np.ones((5, WIDTH))
    dots = np.ones((2, K))
    squares = np.zeros((K, LANES))
    error = bias_error.copy()
    tail = np.empty(WIDTH)
    walk(values, indices, table, grads, weights, dots, squares, error, tail)

    # Error of every prefix, and S of every rank.
    rows = table[indices[TOKEN]]
    errors = bias_error + np.cumsum(values[TOKEN][:, None] * rows, axis=0)
    suffixes = np.cumsum((weights[:, None] * errors)[::-1], axis=0)[::-1]
    expected_grads = np.ones((5, WIDTH))
    expected_grads[indices[TOKEN]] += values[TOKEN][:, None] * suffixes

    np.testing.assert_allclose(error, errors[-1])
    np.testing.assert_allclose(tail, suffixes[0])
    np.testing.assert_allclose(squares.sum(1), (errors**2).sum(1))
    np.testing.assert_allclose(dots[TOKEN], 1 + (rows * suffixes).sum(1))
    np.testing.assert_allclose(dots[1 - TOKEN], 1)
    np.testing.assert_allclose(grads, expected_grads)
