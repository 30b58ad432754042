"""``hierarchical_loss`` on a CPU, in memory that does not grow with k.

Two passes over the ranks of a chunk of tokens, holding ``[chunk, d_model]`` buffers. With r_j the error of prefix j and w_j
its weight, the backward pass needs S_t, the sum of w_j r_j over j >= t:

    d values_t = 2 <W_dec[i_t], S_t>    d W_dec[i_t] += 2 values_t S_t    d b_dec = 2 S_1    d target = -2 S_1

and r_(t-1) = r_t - values_t W_dec[i_t], so walking the ranks down rebuilds every error without having stored one. When numba
is installed the same two passes run as compiled loops, about twice as fast as the chunks in torch.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_lens_ext.kernels._backend import has_numba
from sae_lens_ext.kernels._second_order import gradients_by_definition
from sae_lens_ext.kernels.hierarchical_loss import reference

# Tokens per chunk of the torch version: 128 rows of 640 floats are a third of a megabyte, and the five buffers of a chunk
# stay in cache; smaller chunks pay more for launches (measured 215 ms at 64, 142 at 128, 150 at 256 for B=1024, K=64).
_CHUNK_TOKENS = 128


def hierarchical_loss(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor, target: Tensor, rank_weights: list[float]) -> Tensor:
    """As in ``reference``."""
    return _HierarchicalLoss.apply(values, indices, W_dec, b_dec, target, rank_weights)


class _HierarchicalLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor, target: Tensor, rank_weights: list[float]
    ) -> Tensor:
        # Half precision would lose the small differences between neighbouring prefixes, so the sums run in float32 or wider.
        dtype = torch.promote_types(torch.promote_types(values.dtype, W_dec.dtype), torch.float32)
        wide_values, wide_W, bias_error = values.to(dtype), W_dec.to(dtype).contiguous(), b_dec.to(dtype) - target.to(dtype)
        weights = torch.tensor(rank_weights, dtype=dtype)
        if not any(ctx.needs_input_grad):
            return _loss(wide_values, indices, wide_W, bias_error, weights).div(bias_error.numel()).to(values.dtype)
        run = _compiled_loss_and_gradients if has_numba() else _loss_and_gradients
        # With the factor of the gradients in the weights nothing of their size is passed over again.
        scale = 2.0 / bias_error.numel()
        loss, grad_values, grad_W, suffix = run(wide_values, indices, wide_W, bias_error, weights * scale)
        ctx.save_for_backward(
            grad_values.to(values.dtype),
            grad_W.to(W_dec.dtype),
            suffix.sum(0).to(b_dec.dtype),
            suffix.neg().to(target.dtype) if ctx.needs_input_grad[4] else None,
            values,
            indices,
            W_dec,
            b_dec,
            target,
        )
        ctx.rank_weights = rank_weights
        return loss.div(2).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor):
        *gradients, values, indices, W_dec, b_dec, target = ctx.saved_tensors
        if torch.is_grad_enabled():

            def definition(values: Tensor, W_dec: Tensor, b_dec: Tensor, target: Tensor) -> Tensor:
                return reference.hierarchical_loss(values, indices, W_dec, b_dec, target, ctx.rank_weights)

            needed = [ctx.needs_input_grad[i] for i in (0, 2, 3, 4)]
            found = gradients_by_definition(definition, (values, W_dec, b_dec, target), needed, grad_outputs[0])
            return found[0], None, *found[1:], None
        if grad_outputs[0] != 1:
            gradients = [None if gradient is None else gradient * grad_outputs[0] for gradient in gradients]
        grad_values, grad_W, grad_b, grad_target = gradients
        return grad_values, None, grad_W, grad_b, grad_target, None


def _loss(values: Tensor, indices: Tensor, W_dec: Tensor, bias_error: Tensor, weights: Tensor) -> Tensor:
    """The loss alone, summed over tokens and coordinates: one pass, and a prefix between two levels is added in one piece."""
    loss, error, done = weights.new_zeros(()), bias_error.clone(), 0
    for level in weights.nonzero().flatten().add(1).tolist():
        error += embedding_bag(indices[:, done:level], W_dec, mode="sum", per_sample_weights=values[:, done:level])
        loss += weights[level - 1] * torch.linalg.vector_norm(error).square()
        done = level
    return loss


def _loss_and_gradients(
    values: Tensor, indices: Tensor, W_dec: Tensor, bias_error: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, d values, d W_dec, S_1), all summed over tokens and without the factor 2 / (tokens * d_model) of the mean.

    The loss needs no pass of its own: since r_j = bias_error + the first j terms, sum_j w_j |r_j|^2 equals
    sum_t values_t <W_dec[i_t], S_t> + <bias_error, S_1>, and the backward walk computes both.
    """
    n, k = values.shape
    error = bias_error + embedding_bag(indices, W_dec, mode="sum", per_sample_weights=values)
    suffix = torch.zeros_like(error)
    grad_W = torch.zeros_like(W_dec)
    values_by_rank, indices_by_rank = values.T.contiguous(), indices.T.contiguous()
    dots = torch.empty_like(values_by_rank)
    rank_weights = weights.tolist()
    buffers = torch.empty(2, min(n, _CHUNK_TOKENS), W_dec.shape[1], dtype=W_dec.dtype)
    for start in range(0, n, _CHUNK_TOKENS):
        chunk = slice(start, min(start + _CHUNK_TOKENS, n))
        chunk_error, chunk_suffix = error[chunk], suffix[chunk]
        rows, product = buffers[:, : chunk_error.shape[0]]
        for rank in reversed(range(k)):
            chosen, value = indices_by_rank[rank, chunk], values_by_rank[rank, chunk, None]
            if rank_weights[rank]:
                chunk_suffix.add_(chunk_error, alpha=rank_weights[rank])
            torch.index_select(W_dec, 0, chosen, out=rows)
            torch.sum(torch.mul(rows, chunk_suffix, out=product), dim=1, out=dots[rank, chunk])
            grad_W.index_add_(0, chosen, torch.mul(chunk_suffix, value, out=product))
            chunk_error.sub_(rows.mul_(value))
    loss = (dots * values_by_rank).sum() + (bias_error * suffix).sum()
    return loss, dots.T, grad_W, suffix


def _compiled_loss_and_gradients(
    values: Tensor, indices: Tensor, W_dec: Tensor, bias_error: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sae_lens_ext.kernels.hierarchical_loss import compiled  # loads numba, so only when needed

    return compiled.loss_and_gradients(values, indices, W_dec, bias_error, weights, torch.get_num_threads())
