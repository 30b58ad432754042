"""``sparse_decode`` as a torch operator, for any implementation of sums over rows."""

from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.kernels import _operator
from sae_lens_ext.kernels._checks import check_features
from sae_lens_ext.kernels._rows import Rows
from sae_lens_ext.kernels._second_order import gradients_by_definition
from sae_lens_ext.kernels.sparse_decode import reference


def run(
    name: str,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
) -> Tensor:
    """Run the operator ``name`` on a code with any leading axes."""
    *batch, k = values.shape
    flat_values = values.reshape(-1, k)
    flat_indices = indices.reshape(-1, k).long()
    out = _operator.call(name, flat_values, flat_indices, W_dec, b_dec)

    d_model = W_dec.shape[1]
    return out.view(*batch, d_model)


def register(name: str, rows: Rows) -> None:
    """Register the operator ``name``, and its gradients as ``{name}_gradients``.

    Its arguments are ``values`` and ``indices [n, k]``, ``W_dec [d_sae, d_model]`` and
    ``b_dec [d_model]``.
    """

    def decode(
        values: Tensor,
        indices: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
    ) -> Tensor:
        check_features(indices, W_dec)
        # Implementations address memory by the shapes alone.
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
        grad = grad.contiguous()
        values = values.contiguous()
        indices = indices.contiguous()
        # An operator returns a tensor for every result; an empty one stands for None.
        grad_values = grad.new_empty(0)
        grad_W = grad.new_empty(0)

        if needs_values:
            grad_values = rows.row_dots(grad, indices, W_dec.contiguous())
        if needs_W:
            d_sae = W_dec.shape[0]
            grad_W = rows.scatter_row_sum(values, indices, grad, d_sae)
        return grad_values, grad_W

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, W_dec, b_dec = ctx.saved_tensors
        needs_values, _, needs_W, needs_b = ctx.needs_input_grad

        # For a second derivative, which the operator does not have.
        if torch.is_grad_enabled():

            def definition(
                values: Tensor, W_dec: Tensor, b_dec: Tensor
            ) -> tuple[Tensor]:
                return (reference.sparse_decode(values, indices, W_dec, b_dec),)

            inputs = (values, W_dec, b_dec)
            needs = (needs_values, needs_W, needs_b)
            grad_values, grad_W, grad_b = gradients_by_definition(
                definition,
                inputs,
                needs,
                [grad],
            )
            # Indices have no gradient.
            return grad_values, None, grad_W, grad_b

        grads = _operator.call(
            f"{name}_gradients",
            grad,
            values,
            indices,
            W_dec,
            needs_values,
            needs_W,
        )
        needs = (needs_values, needs_W)
        grad_values, grad_W = _operator.optional(grads, needs)
        # Without the operator: the bias is added to every row.
        grad_b = grad.sum(0) if needs_b else None
        return grad_values, None, grad_W, grad_b

    _operator.register(
        name,
        decode,
        shapes=_shapes,
        keep=_keep,
        backward=backward,
    )
    _operator.register(f"{name}_gradients", gradients, shapes=_gradient_shapes)


def _shapes(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
) -> Tensor:
    n = values.shape[0]
    d_model = W_dec.shape[1]
    return values.new_empty(n, d_model)


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
    grad_values = values.new_empty(values.shape if needs_values else (0,))
    grad_W = W_dec.new_empty(W_dec.shape if needs_W else (0,))
    return grad_values, grad_W
