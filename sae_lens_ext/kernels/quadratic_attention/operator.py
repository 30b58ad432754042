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
from sae_lens_ext.kernels.autocast import without_autocast
from sae_lens_ext.kernels.quadratic_attention import reference
from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.reference import (
    AttentionState,
    FeatureMap,
)


class Results(NamedTuple):
    """What an implementation returns."""

    out: Tensor
    """[n, pos, d_v], in the dtype of the values."""
    divisor: Tensor
    """[n, pos], see ``reference.divisor``; in float32 or wider, as the state is."""
    final_state: Tensor
    """[n, features, d_v + 1], the state after the last token; without elements if it is not wanted."""


Attend = Callable[
    [Tensor, Tensor, Tensor, Tensor | None, FeatureMap, int, bool], Results
]
"""Forward: from q and k [n, pos, d], v [n, pos, d_v] and the state before them, all contiguous and the first three of one dtype, how
many tokens make a chunk (0 for all there are), and whether the state after them is wanted."""

Gradients = Callable[
    [
        Tensor,
        Tensor | None,
        Tensor,
        Tensor,
        Tensor,
        Tensor,
        Tensor,
        Tensor | None,
        FeatureMap,
        int,
    ],
    tuple[Tensor, Tensor, Tensor, Tensor],
]
"""Backward: from the gradients of out and of the final state, from out, divisor, q, k, v and the initial state, the gradients of
these last four; that of a state that is None has no elements."""

_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? initial_state, float[] c, float scale, float eps, int chunk"
_SCHEMA = f"({_INPUTS}, bool wants_state) -> (Tensor, Tensor, Tensor)"
_GRADIENT_SCHEMA = f"(Tensor grad_out, Tensor? grad_final_state, Tensor out, Tensor divisor, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)"


def run(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    state: AttentionState | None,
    wants_state: bool,
    chunk: int,
) -> tuple[Tensor, AttentionState | None]:
    """The operator ``name`` on tensors with any leading shape; what it returns belongs to the caller, who may change it in place."""
    batch = q.shape[:-2]
    n = math.prod(batch)
    flat = [
        tensor.reshape(n, *tensor.shape[-2:])
        for tensor in (q, k, v, *([] if state is None else [_joined(state)]))
    ]
    initial_state = None if state is None else flat.pop()
    out, _, final_state = _operator.call(
        name,
        *flat,
        initial_state,
        list(feature_map.c),
        feature_map.scale,
        feature_map.eps,
        chunk,
        wants_state,
    )
    return out.view(v.shape), _split(
        final_state.view(*batch, *final_state.shape[1:])
    ) if wants_state else None


def register(name: str, attend: Attend, find_gradients: Gradients) -> None:
    """Make the operators ``name`` and ``name_gradients``."""

    @without_autocast
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        initial_state: Tensor | None,
        c: list[float],
        scale: float,
        eps: float,
        chunk: int,
        wants_state: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tensors = (
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            _contiguous(initial_state),
        )
        return attend(*tensors, _feature_map(c, scale, eps), chunk, wants_state)

    @without_autocast
    def gradients(
        grad_out: Tensor,
        grad_final_state: Tensor | None,
        out: Tensor,
        divisor: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        initial_state: Tensor | None,
        c: list[float],
        scale: float,
        eps: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grads = grad_out.contiguous(), _contiguous(grad_final_state)
        tensors = (
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            _contiguous(initial_state),
        )
        return find_gradients(
            *grads,
            out.contiguous(),
            divisor.contiguous(),
            *tensors,
            _feature_map(c, scale, eps),
            chunk,
        )

    def backward(
        ctx: Any, grad_out: Tensor, _: Tensor, grad_final_state: Tensor
    ) -> tuple[Any, ...]:
        *inputs, out, divisor = ctx.saved_tensors
        c, scale, eps, chunk, wants_state = ctx.numbers
        needs, grad_state = (
            list(ctx.needs_input_grad[:4]),
            grad_final_state if wants_state else None,
        )
        if torch.is_grad_enabled():
            found = _by_definition(
                grad_out, grad_state, inputs, needs, _feature_map(c, scale, eps)
            )
        else:
            found = _operator.call(
                f"{name}_gradients",
                grad_out,
                grad_state,
                out,
                divisor,
                *inputs,
                c,
                scale,
                eps,
                chunk,
            )
            found = _operator.optional(found, needs)
        return (*found, None, None, None, None, None)

    _operator.register(
        name, forward, shapes=_shapes, keep=_keep, backward=backward, schema=_SCHEMA
    )
    _operator.register(
        f"{name}_gradients", gradients, shapes=_gradient_shapes, schema=_GRADIENT_SCHEMA
    )


@without_autocast
def _by_definition(
    grad_out: Tensor,
    grad_state: Tensor | None,
    inputs: Sequence[Any],
    needs: list[bool],
    feature_map: FeatureMap,
) -> list[Tensor | None]:
    def weighted(
        q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None
    ) -> Tensor:
        # One number whose gradients are those wanted.
        state = None if initial_state is None else _split(initial_state)
        out, final_state = reference.dense(
            q, k, v, feature_map, state, wants_state=grad_state is not None
        )
        total = (out * grad_out).sum()
        return (
            total
            if final_state is None or grad_state is None
            else total + (_joined(final_state) * grad_state).sum()
        )

    return gradients_by_definition(weighted, inputs, needs, grad_out.new_ones(()))


def _joined(state: AttentionState) -> Tensor:
    return torch.cat([state.kv, state.k.unsqueeze(-1)], dim=-1)


def _split(state: Tensor) -> AttentionState:
    return AttentionState(state[..., :-1].contiguous(), state[..., -1].contiguous())


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _feature_map(c: list[float], scale: float, eps: float) -> FeatureMap:
    return FeatureMap((c[0], c[1], c[2]), scale, eps)


def _shapes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial_state: Tensor | None,
    c: list[float],
    scale: float,
    eps: float,
    chunk: int,
    wants_state: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    n, pos, d = q.shape
    final_state = (
        (n, n_features(d, (c[0], c[1], c[2])), v.shape[-1] + 1) if wants_state else (0,)
    )
    dtype = reference.accumulator(q)
    return (
        v.new_empty(v.shape),
        q.new_empty((n, pos), dtype=dtype),
        q.new_empty(final_state, dtype=dtype),
    )


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:4], *output[:2])
    ctx.numbers = inputs[4:]


def _gradient_shapes(
    grad_out: Tensor,
    grad_final_state: Tensor | None,
    out: Tensor,
    divisor: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial_state: Tensor | None,
    c: list[float],
    scale: float,
    eps: float,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_state = divisor.new_empty(
        (0,) if initial_state is None else initial_state.shape
    )
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), grad_state
