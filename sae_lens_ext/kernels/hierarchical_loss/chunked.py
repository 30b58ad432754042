"""The two passes of ``cpu.py`` in torch, for a chunk of tokens at a time."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_lens_ext.kernels.hierarchical_loss.task import Task

# 128 rows of 640 floats are a third of a megabyte, and the five buffers of a chunk stay
# in the cache; smaller chunks pay more for launches.
_CHUNK_TOKENS = 128


class Walked(NamedTuple):
    """What the two passes over the ranks find.

    The gradients contain the factor of the weights.
    """

    squares: Tensor
    """[k], the squared error at every rank, summed over tokens and coordinates.

    Only meaningful where a level counts.
    """
    error: Tensor
    """[n, d_model], the error of all features; only meaningful with ``details``."""
    grad_values: Tensor
    """[n, k]"""
    grad_W: Tensor
    """[d_sae, d_model]"""
    suffix: Tensor
    """[n, d_model], S_1."""


def walk(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    bias_error: Tensor,
    weights: Tensor,
    task: Task,
) -> Walked:
    """Add up the error over the ranks, and walk them down for the gradients.

    Args:
        values: [n, k].
        indices: [n, k].
        W_dec: [d_sae, d_model].
        bias_error: [n, d_model], the error without any feature.
        weights: [k], of every rank, with the factor 2 / (n * d_model) of the mean's
            gradient.
        task: which levels count, and whether the error of all features is needed.
    """
    n, k = values.shape
    error = bias_error + embedding_bag(
        indices, W_dec, mode="sum", per_sample_weights=values
    )
    last_error = error.clone() if task.details else error

    suffix = torch.zeros_like(error)
    grad_W = torch.zeros_like(W_dec)
    squares = torch.zeros_like(weights)

    # By rank, so that a step reads and writes neighbouring numbers.
    values_by_rank = values.T.contiguous()
    indices_by_rank = indices.T.contiguous()
    dots = torch.empty_like(values_by_rank)
    levels = set(task.levels)
    rank_weights = weights.tolist()

    buffers = torch.empty(2, min(n, _CHUNK_TOKENS), W_dec.shape[1], dtype=W_dec.dtype)
    for start in range(0, n, _CHUNK_TOKENS):
        chunk = slice(start, min(start + _CHUNK_TOKENS, n))
        chunk_error = error[chunk]
        chunk_suffix = suffix[chunk]
        rows, product = buffers[:, : chunk_error.shape[0]]

        for rank in reversed(range(k)):
            features = indices_by_rank[rank, chunk]
            value = values_by_rank[rank, chunk, None]

            if rank + 1 in levels:
                chunk_suffix.add_(chunk_error, alpha=rank_weights[rank])
                squares[rank] += torch.linalg.vector_norm(chunk_error).square()

            torch.index_select(W_dec, 0, features, out=rows)
            torch.mul(rows, chunk_suffix, out=product)
            torch.sum(product, dim=1, out=dots[rank, chunk])

            torch.mul(chunk_suffix, value, out=product)
            grad_W.index_add_(0, features, product)
            chunk_error.sub_(rows.mul_(value))

    return Walked(squares, last_error, dots.T.contiguous(), grad_W, suffix)


def squares_by_level(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    bias_error: Tensor,
    task: Task,
) -> tuple[Tensor, Tensor]:
    """Sum the squares of each level's error, without gradients.

    One pass that adds the features between two levels in one piece.

    Returns:
        The squares ``[levels]``, and the error ``[n, d_model]``: that of all features
        with ``details``, else that of the last level.
    """
    stops = set(task.levels)
    if task.details:
        stops.add(values.shape[1])

    error = bias_error.clone()
    square_of = {}
    done = 0
    for stop in sorted(stops):
        between = slice(done, stop)
        error += embedding_bag(
            indices[:, between],
            W_dec,
            mode="sum",
            per_sample_weights=values[:, between],
        )
        square_of[stop] = torch.linalg.vector_norm(error).square()
        done = stop
    return torch.stack([square_of[level] for level in task.levels]), error
