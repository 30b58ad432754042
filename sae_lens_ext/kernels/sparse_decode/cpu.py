"""``sparse_decode`` on a CPU: one pass over the chosen rows, forward and backward, and never ``[..., k, d_model]``."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_lens_ext.kernels import _rows_cpu


def sparse_decode(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    """As in ``reference``."""
    k = values.shape[-1]
    flat = _SparseDecode.apply(values.reshape(-1, k), indices.reshape(-1, k).long(), W_dec, b_dec)
    return flat.view(*values.shape[:-1], W_dec.shape[1])


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, W_dec)
        return _rows_cpu.weighted_row_sum(values, indices, W_dec).add_(b_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):
        values, indices, W_dec = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        grad_values = grad_W = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_values = _rows_cpu.row_dots(grad, indices, W_dec)
        if ctx.needs_input_grad[2]:
            grad_W = _rows_cpu.scatter_row_sum(values, indices, grad, W_dec.shape[0])
        if ctx.needs_input_grad[3]:
            grad_b = grad.sum(0)
        return grad_values, None, grad_W, grad_b
