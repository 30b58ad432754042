"""``hierarchical_loss`` as a torch operator that computes loss and gradients at once.

The loss is the last operation of a model, so the backward pass can only multiply its
gradients by one scalar. The operator returns the gradients beside the loss, and its
backward pass scales them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.kernels import _operator
from sae_lens_ext.kernels._checks import check_features, holds_numbers
from sae_lens_ext.kernels._second_order import gradients_by_definition
from sae_lens_ext.kernels.hierarchical_loss import reference
from sae_lens_ext.kernels.hierarchical_loss.task import Results, Task, accumulator

_SCHEMA = (
    "(Tensor values, Tensor indices, Tensor W_dec, Tensor b_dec, Tensor target, "
    "int[] levels, float[] weights, bool[] needs, bool details, bool deterministic) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)

Implementation = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Task], Results]
"""Computes the results of a task from the tensors of ``run``."""


def run(
    name: str,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    task: Task,
) -> Results:
    """Run the operator ``name``.

    Args:
        name: of the operator.
        values: [n, k].
        indices: [n, k], int64.
        W_dec: [d_sae, d_model].
        b_dec: [d_model].
        target: [n, d_model].
        task: what to compute.
    """
    # An operator takes tensors, numbers and lists of numbers, so the task is unpacked.
    results = _operator.call(name, values, indices, W_dec, b_dec, target, *task)
    return Results(*results)


def register(name: str, implementation: Implementation) -> None:
    """Register the operator ``name``."""

    def forward(
        values: Tensor,
        indices: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        target: Tensor,
        levels: list[int],
        weights: list[float],
        needs: list[bool],
        details: bool,
        deterministic: bool,
    ) -> tuple[Tensor, ...]:
        check_features(indices, W_dec)
        task = Task(levels, weights, needs, details, deterministic)
        results = implementation(values, indices, W_dec, b_dec, target, task)
        return tuple(results)

    _operator.register(
        name,
        forward,
        shapes=_shapes,
        keep=_keep,
        backward=_backward,
        schema=_SCHEMA,
    )


def _shapes(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    levels: list[int],
    weights: list[float],
    needs: list[bool],
    details: bool,
    deterministic: bool,
) -> tuple[Tensor, ...]:
    dtype = accumulator(values, W_dec)
    n_levels = len(levels) if details else 0
    per_level = values.new_empty(n_levels, dtype=dtype)

    reconstruction_shape = target.shape if details else (0,)
    reconstruction = target.new_empty(reconstruction_shape, dtype=dtype)

    # The dtype of sums, in which gradients wait for the backward pass to scale them.
    inputs = (values, W_dec, b_dec, target)
    gradients = [
        tensor.new_empty(tensor.shape if is_needed else (0,), dtype=dtype)
        for tensor, is_needed in zip(inputs, needs, strict=True)
    ]
    loss = values.new_empty((), dtype=dtype)
    return loss, per_level, reconstruction, *gradients


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    # Otherwise every unused output, some of the size of W_dec, would come back as a
    # gradient of zeros.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:5], *output[3:])
    ctx.task = Task(*inputs[5:])


def _backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    values, indices, W_dec, b_dec, target, *gradients = ctx.saved_tensors
    task = ctx.task
    upstream = grad_outputs[0]
    inputs = (values, W_dec, b_dec, target)
    # All but the indices.
    needs = [ctx.needs_input_grad[i] for i in (0, 2, 3, 4)]

    scaled: list[Tensor | None] = [None] * 4
    # For a second derivative, which the operator does not have.
    if upstream is not None and torch.is_grad_enabled():

        def definition(
            values: Tensor,
            W_dec: Tensor,
            b_dec: Tensor,
            target: Tensor,
        ) -> tuple[Tensor]:
            loss = reference.hierarchical_loss(
                values,
                indices,
                W_dec,
                b_dec,
                target,
                task.levels,
                task.weights,
            )
            return (loss,)

        scaled = gradients_by_definition(definition, inputs, needs, [upstream])
    elif upstream is not None:
        triples = zip(gradients, inputs, needs, strict=True)
        scaled = [
            _scaled(gradient, upstream, tensor.dtype) if is_needed else None
            for gradient, tensor, is_needed in triples
        ]

    grad_values, grad_W, grad_b, grad_target = scaled
    # The numbers of the task have no gradients.
    of_task = [None] * len(task)
    return grad_values, None, grad_W, grad_b, grad_target, *of_task


def _scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """``gradient`` times a scalar, in another dtype."""
    if not holds_numbers(factor):
        wide_factor = factor.to(gradient.dtype)
        return (gradient * wide_factor).to(dtype)
    # The usual factor. Only on a CPU, because a GPU would have to be waited for.
    if factor.device.type == "cpu" and factor == 1:
        return gradient.to(dtype)

    # One pass over what can be the largest tensor of all, instead of one for the factor
    # and one for the dtype.
    out = torch.empty_like(gradient, dtype=dtype)
    wide_factor = factor.to(gradient.dtype)
    return torch.mul(gradient, wide_factor, out=out)
