"""``topk_encode`` as a torch operator, for any way to select the k largest.

Its backward pass reads and writes the chosen features alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import einsum
from torch import Tensor

from sae_lens_ext.kernels import _operator
from sae_lens_ext.kernels._rows import Rows
from sae_lens_ext.kernels._second_order import gradients_by_definition
from sae_lens_ext.kernels.topk_encode import gate

Encode = Callable[
    [Tensor, Tensor, Tensor, Tensor | None, int | None], tuple[Tensor, Tensor]
]
"""Values and indices ``[n, k]`` from centred activations ``[n, d_model]``,
``W_enc [d_model, d_sae]``, ``b_enc [d_sae]``, the floor of every feature ``[d_sae]`` or
None, and k.

Without k there is a floor, and the result is as wide as the token with the most active
features needs. With a floor, the features of zeros are filled in afterwards.
"""


def run(
    name: str,
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    centre: Tensor | None,
    threshold: Tensor | None,
    k: int | None,
) -> tuple[Tensor, Tensor]:
    """Run the operator ``name`` on ``x`` with any leading axes."""
    *batch, d_model = x.shape
    flat_x = x.reshape(-1, d_model)
    values, indices = _operator.call(name, flat_x, W_enc, b_enc, centre, threshold, k)

    shape = (*batch, values.shape[1])
    return values.view(shape), indices.view(shape)


def register(name: str, encode: Encode, rows: Rows) -> None:
    """Register the operator ``name``, and its gradients as ``{name}_gradients``.

    Its arguments are ``x [n, d_model]``, ``W_enc [d_model, d_sae]``, ``b_enc [d_sae]``,
    ``centre [d_model]`` or None, ``threshold [d_sae]`` or None, and k or None. Only the
    chosen features that are active have gradients, and so only they are looked at.
    """

    def forward(
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        centre: Tensor | None,
        threshold: Tensor | None,
        k: int | None,
    ) -> tuple[Tensor, Tensor]:
        centred = _centred(x, centre)
        floor = gate.floor_of(threshold, b_enc, k)
        values, indices = encode(centred, W_enc, b_enc, floor, k)
        if floor is not None:
            gate.fill_inactive(values, indices)
        return values, indices

    def gradients(
        grad_values: Tensor,
        x: Tensor,
        W_enc: Tensor,
        centre: Tensor | None,
        values: Tensor,
        indices: Tensor,
        needs_x: bool,
        needs_W: bool,
        needs_b: bool,
        needs_centre: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        d_sae = W_enc.shape[1]
        # An operator returns a tensor for every result: an empty one stands for None,
        # each a new one, because an operator must not return one tensor twice.
        grad_x = x.new_empty(0)
        grad_W = x.new_empty(0)
        grad_b = x.new_empty(0)
        grad_centre = x.new_empty(0)

        # A chosen feature that is not active has no gradient.
        is_active = values > 0
        grad_pre = torch.where(is_active, grad_values, 0)

        # The copy of W_enc has no name, so that its memory is free again before grad_W
        # needs as much.
        if needs_x:
            grad_x = rows.weighted_row_sum(grad_pre, indices, W_enc.T.contiguous())

        # The transpose of a [d_sae, d_model] result: a W_enc that is stored feature by
        # feature gets a gradient that is laid out like it.
        if needs_W:
            centred = _centred(x, centre).contiguous()
            grad_features = rows.scatter_row_sum(grad_pre, indices, centred, d_sae)
            grad_W = grad_features.T

        # The gradient of the centre is minus the sum of grad_x over tokens, computed
        # without grad_x.
        if needs_b or needs_centre:
            column_sums = rows.scatter_sum(grad_pre, indices, d_sae)
            if needs_b:
                grad_b = column_sums
            if needs_centre:
                grad_centre = -(W_enc @ column_sums)
        return grad_x, grad_W, grad_b, grad_centre

    _operator.register(
        name,
        forward,
        shapes=_shapes,
        keep=_keep,
        backward=_backward(f"{name}_gradients"),
    )
    _operator.register(f"{name}_gradients", gradients, shapes=_gradient_shapes)


def _backward(gradients_name: str) -> Callable[..., tuple[Tensor | None, ...]]:
    def backward(ctx: Any, grad_values: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        x, W_enc, b_enc, centre, values, indices = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:4])

        # For a second derivative, which the operator does not have.
        if torch.is_grad_enabled():

            def chosen_values(
                x: Tensor,
                W_enc: Tensor,
                b_enc: Tensor,
                centre: Tensor | None,
            ) -> tuple[Tensor]:
                centred = _centred(x, centre)
                columns = W_enc.T[indices]
                products = einsum(centred, columns, "n d, n k d -> n k")

                pre = products + b_enc[indices]
                return (torch.where(values > 0, pre, 0),)

            inputs = (x, W_enc, b_enc, centre)
            grads = gradients_by_definition(chosen_values, inputs, needs, [grad_values])
            return *grads, None, None

        grads = _operator.call(
            gradients_name,
            grad_values,
            x,
            W_enc,
            centre,
            values,
            indices,
            *needs,
        )
        grads = _operator.optional(grads, needs)
        # The threshold and k have no gradients.
        return *grads, None, None

    return backward


def _centred(x: Tensor, centre: Tensor | None) -> Tensor:
    return x if centre is None else x - centre


def _shapes(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    centre: Tensor | None,
    threshold: Tensor | None,
    k: int | None,
) -> tuple[Tensor, Tensor]:
    n = x.shape[0]
    # Without k the width depends on numbers, which are not there.
    width = torch.library.get_ctx().new_dynamic_size(min=1) if k is None else k
    values = x.new_empty(n, width)
    indices = x.new_empty(n, width, dtype=torch.int64)
    return values, indices


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:4], *output)


def _gradient_shapes(
    grad_values: Tensor,
    x: Tensor,
    W_enc: Tensor,
    centre: Tensor | None,
    values: Tensor,
    indices: Tensor,
    needs_x: bool,
    needs_W: bool,
    needs_b: bool,
    needs_centre: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_model, d_sae = W_enc.shape
    grad_x = x.new_empty(x.shape if needs_x else (0,))
    grad_b = x.new_empty(d_sae if needs_b else 0)
    grad_centre = x.new_empty(d_model if needs_centre else 0)

    grad_W = x.new_empty(0)
    if needs_W:
        # Strides matter: torch.compile takes them from here.
        grad_W = x.new_empty(d_sae, d_model).T
    return grad_x, grad_W, grad_b, grad_centre
