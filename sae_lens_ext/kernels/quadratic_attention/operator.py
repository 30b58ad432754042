"""``quadratic_attention`` as a torch operator: any way to attend in linear memory, with the backward pass that goes with it.

Inside, a state is one tensor: the sum of phi(k) [v, 1]^T, whose last column belongs to the sum of the weights.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_lens_ext.kernels import _operator
from sae_lens_ext.kernels._second_order import gradients_by_definition
from sae_lens_ext.kernels.quadratic_attention import reference
from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.reference import AttentionState, Kernel


class Results(NamedTuple):
    """What an implementation returns."""

    out: Tensor
    """[n, pos, d_v], in the dtype of the values."""
    denominator: Tensor
    """[n, pos], the sum of the weights; in float32 or wider, as the state is."""
    after: Tensor
    """[n, features, d_v + 1], the state after the last token; without elements if it is not wanted."""


Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, Kernel, bool], Results]
"""Forward: from q and k [n, pos, d], v [n, pos, d_v], contiguous and of one dtype, the state before, and whether that after is wanted."""

Gradients = Callable[
    [Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Kernel], tuple[Tensor, Tensor, Tensor, Tensor]
]
"""Backward: from the gradients of out and of the state after, from out, denominator, q, k, v and the state before, the gradients of
these last four; that of a state that is None has no elements."""

_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? before, float[] c, float scale, float eps"
_SCHEMA = f"({_INPUTS}, bool wants_state) -> (Tensor, Tensor, Tensor)"
_GRADIENT_SCHEMA = f"(Tensor grad_out, Tensor? grad_after, Tensor out, Tensor denominator, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)"


def run(
    name: str, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel, state: AttentionState | None, wants_state: bool
) -> tuple[Tensor, AttentionState | None]:
    """The operator ``name`` on tensors with any leading shape."""
    batch = q.shape[:-2]
    n = math.prod(batch)
    flat = [tensor.reshape(n, *tensor.shape[-2:]) for tensor in (q, k, v, *([] if state is None else [_joined(state)]))]
    before = None if state is None else flat.pop()
    out, _, after = _operator.call(name, *flat, before, list(kernel.c), kernel.scale, kernel.eps, wants_state)
    return out.view(v.shape), _split(after.view(*batch, *after.shape[1:])) if wants_state else None


def register(name: str, attend: Attend, find_gradients: Gradients) -> None:
    """Make the operators ``name`` and ``name_gradients``."""

    def forward(
        q: Tensor, k: Tensor, v: Tensor, before: Tensor | None, c: list[float], scale: float, eps: float, wants_state: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return attend(q.contiguous(), k.contiguous(), v.contiguous(), before, _kernel(c, scale, eps), wants_state)

    def gradients(
        grad_out: Tensor,
        grad_after: Tensor | None,
        out: Tensor,
        denominator: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        before: Tensor | None,
        c: list[float],
        scale: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tensors = q.contiguous(), k.contiguous(), v.contiguous()
        return find_gradients(grad_out.contiguous(), grad_after, out, denominator, *tensors, before, _kernel(c, scale, eps))

    def backward(ctx: Any, grad_out: Tensor, _: Tensor, grad_after: Tensor) -> tuple[Any, ...]:
        *inputs, out, denominator = ctx.saved_tensors
        c, scale, eps, wants_state = ctx.numbers
        needs, after = list(ctx.needs_input_grad[:4]), grad_after if wants_state else None
        if torch.is_grad_enabled():
            found = _by_definition(inputs, needs, _kernel(c, scale, eps), grad_out, after)
        else:
            found = _operator.call(f"{name}_gradients", grad_out, after, out, denominator, *inputs, c, scale, eps)
            found = _operator.optional(found, needs)
        return (*found, None, None, None, None)

    _operator.register(name, forward, shapes=_shapes, keep=_keep, backward=backward, schema=_SCHEMA)
    _operator.register(f"{name}_gradients", gradients, shapes=_gradient_shapes, schema=_GRADIENT_SCHEMA)


def _by_definition(
    inputs: Sequence[Any], needs: list[bool], kernel: Kernel, grad_out: Tensor, grad_after: Tensor | None
) -> list[Tensor | None]:
    def weighted(q: Tensor, k: Tensor, v: Tensor, before: Tensor | None) -> Tensor:
        # One number whose gradients are those wanted.
        out, after = reference.dense(q, k, v, kernel, None if before is None else _split(before))
        total = (out * grad_out).sum()
        return total if grad_after is None else total + (_joined(after) * grad_after).sum()

    return gradients_by_definition(weighted, inputs, needs, grad_out.new_ones(()))


def _joined(state: AttentionState) -> Tensor:
    return torch.cat([state.kv, state.k.unsqueeze(-1)], dim=-1)


def _split(state: Tensor) -> AttentionState:
    return AttentionState(state[..., :-1], state[..., -1])


def _kernel(c: list[float], scale: float, eps: float) -> Kernel:
    return Kernel((c[0], c[1], c[2]), scale, eps)


def _shapes(
    q: Tensor, k: Tensor, v: Tensor, before: Tensor | None, c: list[float], scale: float, eps: float, wants_state: bool
) -> tuple[Tensor, Tensor, Tensor]:
    n, pos, d = q.shape
    after = (n, n_features(d, (c[0], c[1], c[2])), v.shape[-1] + 1) if wants_state else (0,)
    dtype = reference.accumulator(q)
    return v.new_empty(v.shape), q.new_empty((n, pos), dtype=dtype), q.new_empty(after, dtype=dtype)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:4], *output[:2])
    ctx.numbers = inputs[4:]


def _gradient_shapes(
    grad_out: Tensor,
    grad_after: Tensor | None,
    out: Tensor,
    denominator: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    before: Tensor | None,
    c: list[float],
    scale: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_before = denominator.new_empty((0,) if before is None else before.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), grad_before
