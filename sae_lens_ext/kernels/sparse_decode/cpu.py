"""``sparse_decode`` on a CPU: one pass over the chosen rows, forward and backward, and never ``[..., k, d_model]``.

A torch custom operator, so that it is one step for torch.compile and for stand-in tensors that have only shapes.
"""

from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.kernels import _rows_cpu
from sae_lens_ext.kernels._second_order import gradients_by_definition
from sae_lens_ext.kernels.sparse_decode import reference


def sparse_decode(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    """As in ``reference``."""
    k = values.shape[-1]
    flat = torch.ops.sae_lens_ext.sparse_decode(values.reshape(-1, k), indices.reshape(-1, k).long(), W_dec, b_dec)
    return flat.view(*values.shape[:-1], W_dec.shape[1])


def _decode(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    return _rows_cpu.weighted_row_sum(values, indices, W_dec).add_(b_dec)


def _decode_shapes(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    return values.new_empty(values.shape[0], W_dec.shape[1])


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    values, indices, W_dec, b_dec = ctx.saved_tensors
    needs_values, _, needs_W, needs_b = ctx.needs_input_grad
    if torch.is_grad_enabled():

        def definition(values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
            return reference.sparse_decode(values, indices, W_dec, b_dec)

        found = gradients_by_definition(definition, (values, W_dec, b_dec), (needs_values, needs_W, needs_b), grad)
        return found[0], None, found[1], found[2]
    grad = grad.contiguous()
    grad_values = grad_W = grad_b = None
    if needs_values:
        grad_values = _rows_cpu.row_dots(grad, indices, W_dec)
    if needs_W:
        grad_W = _rows_cpu.scatter_row_sum(values, indices, grad, W_dec.shape[0])
    if needs_b:
        grad_b = grad.sum(0)
    return grad_values, None, grad_W, grad_b


def _register() -> None:
    # Kept in torch.ops alone, where it is called: this module can then be sent to an nnsight server, which an operator cannot.
    operator = torch.library.custom_op("sae_lens_ext::sparse_decode", _decode, mutates_args=())
    operator.register_fake(_decode_shapes)
    operator.register_autograd(_backward, setup_context=_keep)


_register()
