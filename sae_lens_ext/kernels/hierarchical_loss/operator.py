"""``hierarchical_loss`` as a torch operator that computes the loss and its gradients at once.

The loss is the last thing a model computes, and all that its backward pass can still add is one scalar factor. So the operator
returns the gradients beside the loss, and its backward pass scales them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_lens_ext.kernels import _operator
from sae_lens_ext.kernels._checks import check_features, holds_numbers
from sae_lens_ext.kernels._second_order import gradients_by_definition
from sae_lens_ext.kernels.hierarchical_loss import reference


class Results(NamedTuple):
    """What an implementation returns. What nobody needs has no element."""

    loss: Tensor
    """In the dtype of ``values``."""
    per_level: Tensor
    """[levels], the mean square of each level's error; in float32 or wider, as everything below."""
    reconstruction: Tensor
    """[n, d_model], from all features."""
    values: Tensor
    """[n, k], the gradient with respect to ``values``; the next ones likewise."""
    W_dec: Tensor
    b_dec: Tensor
    target: Tensor


class Task(NamedTuple):
    """What is asked of an implementation beside the loss."""

    levels: list[int]
    """The prefix lengths that count."""
    weights: list[float]
    """How much each of them counts; the sum is 1."""
    needs: list[bool]
    """Whether the gradients with respect to ``values``, ``W_dec``, ``b_dec`` and ``target`` are needed."""
    details: bool
    """Whether ``per_level`` and ``reconstruction`` are."""
    deterministic: bool
    """Whether all must come out the same, to the bit, every time."""

    def rank_weights(self, k: int) -> list[float]:
        """The weight of every prefix length 1 to k."""
        found = dict(zip(self.levels, self.weights, strict=True))
        return [found.get(rank + 1, 0.0) for rank in range(k)]


_SCHEMA = (
    "(Tensor values, Tensor indices, Tensor W_dec, Tensor b_dec, Tensor target, int[] levels, float[] weights, bool[] needs, "
    "bool details, bool deterministic) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)

Implementation = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Task], Results]


def run(
    name: str,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    task: Task,
) -> Results:
    """The operator ``name``, on ``values`` and ``indices [n, k]``, ``W_dec [d_sae, d_model]``, ``b_dec`` and ``target [n, d_model]``."""
    return Results(*_operator.call(name, values, indices, W_dec, b_dec, target, *task))


def accumulator(*tensors: Tensor) -> torch.dtype:
    """The dtype of sums: half precision would lose the small differences between neighbouring prefixes."""
    return torch.promote_types(
        torch.float32, torch.promote_types(tensors[0].dtype, tensors[-1].dtype)
    )


def register(name: str, implementation: Implementation) -> None:
    """Make the operator ``name``."""

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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        check_features(indices, W_dec)
        task = Task(levels, weights, needs, details, deterministic)
        found = implementation(values, indices, W_dec, b_dec, target, task)
        return (
            found.loss,
            found.per_level,
            found.reconstruction,
            found.values,
            found.W_dec,
            found.b_dec,
            found.target,
        )

    _operator.register(
        name, forward, shapes=_shapes, keep=_keep, backward=_backward, schema=_SCHEMA
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
    per_level = values.new_empty(len(levels) if details else 0, dtype=dtype)
    reconstruction = target.new_empty(target.shape if details else (0,), dtype=dtype)
    tensors = zip((values, W_dec, b_dec, target), needs, strict=True)
    gradients = [
        tensor.new_empty(tensor.shape if is_needed else (0,), dtype=dtype)
        for tensor, is_needed in tensors
    ]
    return values.new_empty(()), per_level, reconstruction, *gradients


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    # Without this every unused output, of the size of W_dec, would come back as a gradient of zeros.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:5], *output[3:])
    ctx.task = Task(*inputs[5:])


def _backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    values, indices, W_dec, b_dec, target, *gradients = ctx.saved_tensors
    inputs, task, upstream = (values, W_dec, b_dec, target), ctx.task, grad_outputs[0]
    needed = [ctx.needs_input_grad[i] for i in (0, 2, 3, 4)]
    found: list[Tensor | None] = [None] * 4
    if upstream is not None and torch.is_grad_enabled():

        def definition(
            values: Tensor, W_dec: Tensor, b_dec: Tensor, target: Tensor
        ) -> Tensor:
            return reference.hierarchical_loss(
                values, indices, W_dec, b_dec, target, task.levels, task.weights
            )

        found = gradients_by_definition(definition, inputs, needed, upstream)
    elif upstream is not None:
        pairs = zip(gradients, inputs, needed, strict=True)
        found = [
            _scaled(gradient, upstream, tensor.dtype) if is_needed else None
            for gradient, tensor, is_needed in pairs
        ]
    return found[0], None, *found[1:], *(None,) * len(task)


def _scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    if not holds_numbers(factor):
        return (gradient * factor.to(gradient.dtype)).to(dtype)
    if factor.device.type == "cpu" and factor == 1:
        return gradient.to(dtype)
    # One pass over what can be the largest tensor there is, rather than one for the factor and one for the dtype.
    return torch.mul(
        gradient, factor.to(gradient.dtype), out=torch.empty_like(gradient, dtype=dtype)
    )
