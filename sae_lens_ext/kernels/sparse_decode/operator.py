"""``sparse_decode`` as a torch operator, on either implementation of sums over chosen rows."""

from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.kernels import _operator
from sae_lens_ext.kernels._checks import check_features
from sae_lens_ext.kernels._rows import Rows
from sae_lens_ext.kernels._second_order import gradients_by_definition
from sae_lens_ext.kernels.sparse_decode import reference


def run(
    name: str, values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor
) -> Tensor:
    """The operator ``name`` on tensors with any leading shape."""
    k = values.shape[-1]
    flat = _operator.call(
        name, values.reshape(-1, k), indices.reshape(-1, k).long(), W_dec, b_dec
    )
    return flat.view(*values.shape[:-1], W_dec.shape[1])


def register(name: str, rows: Rows) -> None:
    """Make the operator ``name`` of ``values`` and ``indices [n, k]``, ``W_dec [d_sae, d_model]`` and ``b_dec [d_model]``."""

    def decode(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
        check_features(indices, W_dec)
        return rows.weighted_row_sum(
            values.contiguous(),
            indices.contiguous(),
            W_dec.contiguous(),
            b_dec.contiguous(),
        )

    def gradients(
        grad: Tensor,
        values: Tensor,
        indices: Tensor,
        W_dec: Tensor,
        needs_values: bool,
        needs_W: bool,
    ) -> tuple[Tensor, Tensor]:
        grad, values, indices = (
            grad.contiguous(),
            values.contiguous(),
            indices.contiguous(),
        )
        grad_values = (
            rows.row_dots(grad, indices, W_dec.contiguous())
            if needs_values
            else grad.new_empty(0)
        )
        return grad_values, rows.scatter_row_sum(
            values, indices, grad, W_dec.shape[0]
        ) if needs_W else grad.new_empty(0)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, W_dec, b_dec = ctx.saved_tensors
        needs_values, _, needs_W, needs_b = ctx.needs_input_grad
        if torch.is_grad_enabled():

            def definition(values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
                return reference.sparse_decode(values, indices, W_dec, b_dec)

            found = gradients_by_definition(
                definition,
                (values, W_dec, b_dec),
                (needs_values, needs_W, needs_b),
                grad,
            )
            return found[0], None, found[1], found[2]
        found = _operator.call(
            f"{name}_gradients", grad, values, indices, W_dec, needs_values, needs_W
        )
        grad_values, grad_W = _operator.optional(found, (needs_values, needs_W))
        return grad_values, None, grad_W, grad.sum(0) if needs_b else None

    _operator.register(name, decode, shapes=_shapes, keep=_keep, backward=backward)
    _operator.register(f"{name}_gradients", gradients, shapes=_gradient_shapes)


def _shapes(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    return values.new_empty(values.shape[0], W_dec.shape[1])


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _gradient_shapes(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    needs_values: bool,
    needs_W: bool,
) -> tuple[Tensor, Tensor]:
    return values.new_empty(values.shape if needs_values else (0,)), W_dec.new_empty(
        W_dec.shape if needs_W else (0,)
    )
