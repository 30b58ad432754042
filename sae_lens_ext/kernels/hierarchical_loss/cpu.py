"""``hierarchical_loss`` on a CPU, in memory that does not grow with ``k * d_model``.

Two passes over the ranks of a token. With r_j the error of prefix j and w_j its weight,
the gradients need S_t, the sum of w_j r_j over j >= t:

    d values_t = 2 <W_dec[i_t], S_t>    d W_dec[i_t] += 2 values_t S_t
    d b_dec = 2 S_1                     d target = -2 S_1

The first pass adds up the error of all features. The second walks the ranks down, and
rebuilds every error by r_(t-1) = r_t - values_t W_dec[i_t] instead of having stored it.
``chunked.py`` is these passes in torch; ``compiled.py`` is the same as loops that numba
compiles, which is faster.
"""

import torch
from torch import Tensor

from sae_lens_ext.kernels._backend import has_numba
from sae_lens_ext.kernels.hierarchical_loss import chunked, operator
from sae_lens_ext.kernels.hierarchical_loss.chunked import Walked
from sae_lens_ext.kernels.hierarchical_loss.task import Results, Task, accumulator


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
        "hierarchical_loss_cpu",
        values,
        indices,
        W_dec,
        b_dec,
        target,
        task,
    )


def _results(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    task: Task,
) -> Results:
    dtype = accumulator(values, W_dec)
    wide_values = values.to(dtype)
    wide_W = W_dec.to(dtype).contiguous()
    # The error without any feature.
    bias_error = b_dec.to(dtype) - target.to(dtype)

    def empty() -> Tensor:
        # A new one each time: an operator must not return one tensor twice.
        return torch.empty(0, dtype=dtype)

    grad_values = empty()
    grad_W = empty()
    grad_b = empty()
    grad_target = empty()
    if any(task.needs):
        # With the factor of the mean's gradient in the weights, no tensor of the
        # gradients' size is passed over again.
        k = values.shape[1]
        weights = torch.tensor(task.rank_weights(k), dtype=dtype)
        weights *= 2.0 / target.numel()
        walked = _walk(wide_values, indices, wide_W, bias_error, weights, task)

        ranks = [level - 1 for level in task.levels]
        squares = walked.squares[ranks]
        error = walked.error
        if task.needs[0]:
            grad_values = walked.grad_values
        if task.needs[1]:
            grad_W = walked.grad_W
        if task.needs[2]:
            grad_b = walked.suffix.sum(0)
        if task.needs[3]:
            grad_target = walked.suffix.neg_()
    else:
        squares, error = chunked.squares_by_level(
            wide_values,
            indices,
            wide_W,
            bias_error,
            task,
        )

    per_level = squares / target.numel()
    # Not a matrix product, which autocast would take to half precision.
    level_weights = torch.tensor(task.weights, dtype=dtype)
    loss = (per_level * level_weights).sum()
    return Results(
        loss=loss,
        per_level=per_level if task.details else empty(),
        reconstruction=error + target if task.details else empty(),
        grad_values=grad_values,
        grad_W=grad_W,
        grad_b=grad_b,
        grad_target=grad_target,
    )


operator.register("hierarchical_loss_cpu", _results)


def _walk(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    bias_error: Tensor,
    weights: Tensor,
    task: Task,
) -> Walked:
    """Walk in compiled loops where numba is installed, and in torch elsewhere."""
    if not has_numba():
        return chunked.walk(values, indices, W_dec, bias_error, weights, task)

    # Loads numba, so only when needed.
    from sae_lens_ext.kernels.hierarchical_loss import compiled

    n_threads = torch.get_num_threads()
    return compiled.walk(
        values,
        indices,
        W_dec,
        bias_error,
        weights,
        task.details,
        n_threads,
    )
