"""``quadratic_attention`` as torch operators.

``register`` turns an implementation into the operators NAME and NAME_gradients, and
``run`` calls the first one by its name.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.kernels import _operator
from sae_lens_ext.kernels._second_order import gradients_by_definition
from sae_lens_ext.kernels.autocast import without_autocast
from sae_lens_ext.kernels.quadratic_attention import reference
from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.implementation import (
    Attend,
    Gradients,
)
from sae_lens_ext.kernels.quadratic_attention.reference import (
    AttentionState,
    FeatureMap,
)

_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? initial_state, "
    "float[] c, float scale, float eps, int chunk"
)
_SCHEMA = f"({_INPUTS}, bool wants_state) -> (Tensor, Tensor, Tensor)"
_GRADIENT_SCHEMA = (
    "(Tensor grad_out, Tensor? grad_final_state, Tensor out, Tensor divisor, "
    f"{_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)"
)


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
    """Run the operator ``name`` on tensors with any leading shape.

    The results belong to the caller, who may change them in place.
    """
    # Not flatten, because there may be no leading axis.
    batch = q.shape[:-2]
    n = math.prod(batch)
    flat_q, flat_k, flat_v = (
        tensor.reshape(n, *tensor.shape[-2:]) for tensor in (q, k, v)
    )
    # One tensor for both parts, because an operator takes no tuples.
    initial_state = None
    if state is not None:
        joined = _joined(state)
        initial_state = joined.reshape(n, *joined.shape[-2:])

    out, _, final_state = _operator.call(
        name,
        flat_q,
        flat_k,
        flat_v,
        initial_state,
        list(feature_map.c),
        feature_map.scale,
        feature_map.eps,
        chunk,
        wants_state,
    )

    out = out.view(v.shape)
    if not wants_state:
        return out, None

    final_state = final_state.view(*batch, *final_state.shape[1:])
    return out, _split(final_state)


def register(name: str, attend: Attend, find_gradients: Gradients) -> None:
    """Register the operators ``name`` and ``name_gradients``."""
    _operator.register(
        name,
        _forward(attend),
        shapes=_shapes,
        keep=_keep,
        backward=_backward(f"{name}_gradients"),
        schema=_SCHEMA,
    )
    _operator.register(
        f"{name}_gradients",
        _gradients(find_gradients),
        shapes=_gradient_shapes,
        schema=_GRADIENT_SCHEMA,
    )


def _forward(attend: Attend) -> Callable[..., tuple[Tensor, ...]]:
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
        # Implementations address memory by the shapes alone.
        return attend(
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            _contiguous(initial_state),
            _feature_map(c, scale, eps),
            chunk,
            wants_state,
        )

    return forward


def _gradients(find_gradients: Gradients) -> Callable[..., tuple[Tensor, ...]]:
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
        return find_gradients(
            grad_out.contiguous(),
            _contiguous(grad_final_state),
            out.contiguous(),
            divisor.contiguous(),
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            _contiguous(initial_state),
            _feature_map(c, scale, eps),
            chunk,
        )

    return gradients


def _backward(gradients_name: str) -> Callable[..., tuple[Any, ...]]:
    def backward(
        ctx: Any,
        grad_out: Tensor,
        _: Tensor,
        grad_final_state: Tensor,
    ) -> tuple[Any, ...]:
        *inputs, out, divisor = ctx.saved_tensors
        c, scale, eps, chunk, wants_state = ctx.numbers
        # Without a final state its gradient is that of an empty tensor.
        grad_state = grad_final_state if wants_state else None
        needs = list(ctx.needs_input_grad[:4])

        if torch.is_grad_enabled():
            # For a second derivative, which the operator does not have.
            feature_map = _feature_map(c, scale, eps)
            gradients = _gradients_by_definition(
                grad_out,
                grad_state,
                inputs,
                needs,
                feature_map,
            )
        else:
            gradients = _operator.call(
                gradients_name,
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
            gradients = _operator.optional(gradients, needs)
        # The numbers have no gradients.
        return (*gradients, None, None, None, None, None)

    return backward


@without_autocast
def _gradients_by_definition(
    grad_out: Tensor,
    grad_state: Tensor | None,
    inputs: Sequence[Any],
    needs: list[bool],
    feature_map: FeatureMap,
) -> list[Tensor | None]:
    wants_state = grad_state is not None

    def definition(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        initial_state: Tensor | None,
    ) -> list[Tensor]:
        state = None if initial_state is None else _split(initial_state)
        out, final_state = reference.dense(q, k, v, feature_map, state, wants_state)
        return [out] if final_state is None else [out, _joined(final_state)]

    grad_outputs = [grad_out] if grad_state is None else [grad_out, grad_state]
    return gradients_by_definition(definition, inputs, needs, grad_outputs)


def _joined(state: AttentionState) -> Tensor:
    return torch.cat([state.kv, state.k.unsqueeze(-1)], dim=-1)


def _split(state: Tensor) -> AttentionState:
    kv = state[..., :-1].contiguous()
    k = state[..., -1].contiguous()
    return AttentionState(kv, k)


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
    d_v = v.shape[-1]
    # An operator returns a tensor for every result; an empty one stands for None.
    state_shape = (0,)
    if wants_state:
        features = n_features(d, (c[0], c[1], c[2]))
        state_shape = (n, features, d_v + 1)
    dtype = reference.accumulator(q)
    return (
        v.new_empty(v.shape),
        q.new_empty((n, pos), dtype=dtype),
        q.new_empty(state_shape, dtype=dtype),
    )


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    # The final state is not needed: the backward pass computes the states again.
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
    state_shape = (0,) if initial_state is None else initial_state.shape
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        divisor.new_empty(state_shape),
    )
