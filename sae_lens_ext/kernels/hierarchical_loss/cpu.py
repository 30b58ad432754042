"""``hierarchical_loss`` on a CPU, in memory that grows with k by no more than the code does.

Two passes over the ranks of a chunk of tokens, holding ``[chunk, d_model]`` buffers. With r_j the error of prefix j and w_j
its weight, the backward pass needs S_t, the sum of w_j r_j over j >= t:

    d values_t = 2 <W_dec[i_t], S_t>    d W_dec[i_t] += 2 values_t S_t    d b_dec = 2 S_1    d target = -2 S_1

and r_(t-1) = r_t - values_t W_dec[i_t], so walking the ranks down rebuilds every error without having stored one. When numba
is installed the same two passes run as compiled loops, which is faster.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_lens_ext.kernels._backend import has_numba
from sae_lens_ext.kernels.hierarchical_loss import operator
from sae_lens_ext.kernels.hierarchical_loss.operator import Results, Task

# Tokens per chunk of the torch version: 128 rows of 640 floats are a third of a megabyte, and the five buffers of a chunk
# stay in cache; smaller chunks pay more for launches.
_CHUNK_TOKENS = 128


def hierarchical_loss(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    task: Task,
) -> Results:
    """See ``operator.run``."""
    return operator.run(
        "hierarchical_loss_cpu", values, indices, W_dec, b_dec, target, task
    )


def _results(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    task: Task,
) -> Results:
    dtype, k, size = (
        operator.accumulator(values, W_dec),
        values.shape[1],
        target.numel(),
    )
    wide = (
        values.to(dtype),
        indices,
        W_dec.to(dtype).contiguous(),
        b_dec.to(dtype) - target.to(dtype),
    )
    nothing = torch.empty(0, dtype=dtype)
    grad_values = grad_W = grad_b = grad_target = nothing
    if any(task.needs):
        run = _compiled_loss_and_gradients if has_numba() else _loss_and_gradients
        # With the factor of the gradients in the weights nothing of their size is passed over again.
        weights = torch.tensor(task.rank_weights(k), dtype=dtype) * (2.0 / size)
        squares, error, grad_values, grad_W, suffix = run(*wide, weights, task)
        squares = squares[[level - 1 for level in task.levels]]
        grad_b, grad_target = suffix.sum(0), suffix.neg_() if task.needs[3] else nothing
    else:
        squares, error = _squares(*wide, task)
    per_level = squares / size
    # Not a matrix product, which autocast would take to half precision.
    loss = (per_level * torch.tensor(task.weights, dtype=dtype)).sum()
    gradients = zip((grad_values, grad_W, grad_b, grad_target), task.needs, strict=True)
    gradients = [
        gradient if is_needed else nothing.clone() for gradient, is_needed in gradients
    ]
    details = (
        (per_level, error + target)
        if task.details
        else (nothing.clone(), nothing.clone())
    )
    return Results(loss.to(values.dtype), *details, *gradients)


operator.register("hierarchical_loss_cpu", _results)


def _squares(
    values: Tensor, indices: Tensor, W_dec: Tensor, bias_error: Tensor, task: Task
) -> tuple[Tensor, Tensor]:
    """The square of each level's error, and the error of all features if details are asked for.

    One pass, and what lies between two levels is added in one piece.
    """
    found, error, done = {}, bias_error.clone(), 0
    last = [values.shape[1]] if task.details else []
    for level in sorted({*task.levels, *last}):
        error += embedding_bag(
            indices[:, done:level],
            W_dec,
            mode="sum",
            per_sample_weights=values[:, done:level],
        )
        found[level] = torch.linalg.vector_norm(error).square()
        done = level
    return torch.stack([found[level] for level in task.levels]), error


def _loss_and_gradients(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    bias_error: Tensor,
    weights: Tensor,
    task: Task,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the backward walk finds, with weights w_j that contain the factor 2 / (n * d_model) of the mean's gradient.

    The squared error at every level, summed over tokens and coordinates, at its rank; the error of all features, if details are
    asked for; d values, d W_dec, and S_1.
    """
    n, k = values.shape
    error = bias_error + embedding_bag(
        indices, W_dec, mode="sum", per_sample_weights=values
    )
    last_error = error.clone() if task.details else error
    suffix = torch.zeros_like(error)
    grad_W = torch.zeros_like(W_dec)
    values_by_rank, indices_by_rank = values.T.contiguous(), indices.T.contiguous()
    dots, squares = torch.empty_like(values_by_rank), torch.zeros_like(weights)
    levels, rank_weights = set(task.levels), weights.tolist()
    buffers = torch.empty(2, min(n, _CHUNK_TOKENS), W_dec.shape[1], dtype=W_dec.dtype)
    for start in range(0, n, _CHUNK_TOKENS):
        chunk = slice(start, min(start + _CHUNK_TOKENS, n))
        chunk_error, chunk_suffix = error[chunk], suffix[chunk]
        rows, product = buffers[:, : chunk_error.shape[0]]
        for rank in reversed(range(k)):
            chosen, value = (
                indices_by_rank[rank, chunk],
                values_by_rank[rank, chunk, None],
            )
            if rank + 1 in levels:
                chunk_suffix.add_(chunk_error, alpha=rank_weights[rank])
                squares[rank] += torch.linalg.vector_norm(chunk_error).square()
            torch.index_select(W_dec, 0, chosen, out=rows)
            torch.sum(
                torch.mul(rows, chunk_suffix, out=product), dim=1, out=dots[rank, chunk]
            )
            grad_W.index_add_(0, chosen, torch.mul(chunk_suffix, value, out=product))
            chunk_error.sub_(rows.mul_(value))
    return squares, last_error, dots.T.contiguous(), grad_W, suffix


def _compiled_loss_and_gradients(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    bias_error: Tensor,
    weights: Tensor,
    task: Task,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from sae_lens_ext.kernels.hierarchical_loss import (
        compiled,
    )  # loads numba, so only when needed

    return compiled.loss_and_gradients(
        values,
        indices,
        W_dec,
        bias_error,
        weights,
        task.details,
        torch.get_num_threads(),
    )
