"""The forms in which linear attention is computed.

All of them give the same numbers. ``fastest`` has no taps, ``dense`` has those of the
scores, the features and the pattern, and ``recurrent`` those of the state. An edit at a
tap changes the output as the formulas below say, from that tap on.

Tensors are [batch, head, pos, width] between the forms and their callers; at taps they
have the shapes that ``LinearAttention`` documents.
"""

from typing import Literal, NamedTuple

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from sae_lens_ext.based.taps import is_hooked, pass_through
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.kernels import (
    AttentionState,
    quadratic_attention,
    quadratic_attention_with_state,
)
from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap, divisor

Form = Literal["auto", "dense", "recurrent"]
"""How linear attention is computed: as hooked taps need it, or in a chosen form too."""


class AttentionInputs(NamedTuple):
    """The input of a form."""

    q: Tensor
    k: Tensor
    v: Tensor
    state: AttentionState | None
    """The state after all earlier tokens; None if there are none."""
    returns_state: bool
    """Whether the state after these tokens is computed."""


class AttentionOutput(NamedTuple):
    """The output of a form."""

    z: Tensor
    """[batch, head, pos, d_head], the weighted values."""
    state: AttentionState | None
    """The state after these tokens."""
    is_edited: bool
    """Whether a hook changed an activation, so that no other form has this output."""


class DenseTaps(NamedTuple):
    """The taps of the dense form, in the order in which tensors pass them."""

    scores: nn.Module
    phi_q: nn.Module
    phi_k: nn.Module
    weights: nn.Module
    denom: nn.Module
    pattern: nn.Module


class RecurrentTaps(NamedTuple):
    """The taps of the recurrent form, in the order in which tensors pass them."""

    write: nn.Module
    state: nn.Module
    state_norm: nn.Module


def fastest(inputs: AttentionInputs, feature_map: FeatureMap) -> AttentionOutput:
    """The fastest form for these inputs, without taps."""
    # Without _asdict(), which torch.compile of torch 2.8 cannot trace.
    options = {
        "c": feature_map.c,
        "scale": feature_map.scale,
        "eps": feature_map.eps,
        "state": inputs.state,
    }
    if not inputs.returns_state:
        z = quadratic_attention(inputs.q, inputs.k, inputs.v, **options)
        return AttentionOutput(z, None, is_edited=False)
    z, state = quadratic_attention_with_state(inputs.q, inputs.k, inputs.v, **options)
    return AttentionOutput(z, state, is_edited=False)


def dense(
    inputs: AttentionInputs,
    feature_map: FeatureMap,
    taps: DenseTaps,
    *,
    shows_features: bool,
) -> AttentionOutput:
    """All weights at once, [batch, head, query, key].

    Weights are the polynomial of the scores, or the product of the features of queries
    and keys. ``shows_features`` passes the features through their taps.

    Raises:
        InvalidArgument: hooks changed both the scores and the features.
    """
    dtype = inputs.v.dtype
    inputs = _widened(inputs)
    q, k, v, before, _ = inputs

    scores, scores_edited = pass_through(taps.scores, feature_map.scale * q @ k.mT)
    features = _features(inputs, feature_map, taps, shows_features)
    if scores_edited and features.are_edited:
        raise InvalidArgument(
            "the scores and the features of a layer were both edited, and each of them "
            "determines its weights; edit one of them in a run"
        )
    weights = features.weights
    if weights is None:
        weights = feature_map.of_scores(scores)
    weights, weights_edited = pass_through(taps.weights, weights.tril())

    total = weights.sum(-1)
    if before is not None and features.phi_q is not None:
        earlier_total = features.phi_q @ before.k.unsqueeze(-1)
        total = total + earlier_total.squeeze(-1)
    total = rearrange(total, "b h t -> b t h")
    total, total_edited = pass_through(taps.denom, total)
    total = rearrange(total, "b t h -> b h t")

    norm = None
    if before is not None:
        norm = before.k.unsqueeze(-2)
    denominator = divisor(total, q, norm, feature_map)
    denominator = denominator.unsqueeze(-1)

    pattern, pattern_edited = pass_through(taps.pattern, weights / denominator)
    z = pattern @ v
    if before is not None and features.phi_q is not None:
        # Earlier tokens are known by their state alone, so no tap shows their weights.
        z = z + features.phi_q @ before.kv / denominator

    state = None
    if inputs.returns_state and features.phi_k is not None:
        state = _state_after(before, features.phi_k, v)
    is_edited = (
        scores_edited
        or features.are_edited
        or weights_edited
        or total_edited
        or pattern_edited
    )
    return AttentionOutput(z.to(dtype), state, is_edited)


def recurrent(
    inputs: AttentionInputs, feature_map: FeatureMap, taps: RecurrentTaps
) -> AttentionOutput:
    """The state of every token, [batch, pos, head, features, d_head], and its reading.

    An edited write is in the state of all later tokens. An edited state is read by its
    own token, and by no other.
    """
    dtype = inputs.v.dtype
    q, k, v, before, returns_state = _widened(inputs)
    phi_q = feature_map.features(q)
    phi_k = feature_map.features(k)

    write = einsum(phi_k, v, "b h t f, b h t v -> b t h f v")
    write, write_edited = pass_through(taps.write, write)
    state = write.cumsum(1)
    norm = rearrange(phi_k, "b h t f -> b t h f").cumsum(1)
    if before is not None:
        state = state + before.kv.unsqueeze(1)
        norm = norm + before.k.unsqueeze(1)

    last = None
    if returns_state:
        last = before
        if state.shape[1]:
            # Cloned, because views would keep the memory of the states of all tokens,
            # and change with an edit in place.
            last = AttentionState(state[:, -1].clone(), norm[:, -1].clone())

    state, state_edited = pass_through(taps.state, state)
    norm, norm_edited = pass_through(taps.state_norm, norm)
    sums = einsum(phi_q, state, "b h t f, b t h f v -> b h t v")
    total = einsum(phi_q, norm, "b h t f, b t h f -> b h t")
    norm = rearrange(norm, "b t h f -> b h t f")
    denominator = divisor(total, q, norm, feature_map)
    z = sums / denominator.unsqueeze(-1)

    is_edited = write_edited or state_edited or norm_edited
    return AttentionOutput(z.to(dtype), last, is_edited)


class _Features(NamedTuple):
    """The features of queries and keys, where the dense form needs them."""

    phi_q: Tensor | None
    """[batch, head, pos, features]."""
    phi_k: Tensor | None
    weights: Tensor | None
    """The products phi_q phi_k, where these replace the polynomial of the scores."""
    are_edited: bool


def _features(
    inputs: AttentionInputs,
    feature_map: FeatureMap,
    taps: DenseTaps,
    shows_features: bool,
) -> _Features:
    if not shows_features:
        # Queries read the earlier state by their features, and keys write the next one.
        phi_q = None
        if inputs.state is not None:
            phi_q = feature_map.features(inputs.q)
        phi_k = None
        if inputs.returns_state:
            phi_k = feature_map.features(inputs.k)
        return _Features(phi_q, phi_k, None, are_edited=False)

    phi_q = feature_map.features(inputs.q)
    phi_q, q_edited = _pass_features(taps.phi_q, phi_q)
    phi_k = feature_map.features(inputs.k)
    phi_k, k_edited = _pass_features(taps.phi_k, phi_k)
    are_edited = q_edited or k_edited
    are_hooked = is_hooked(taps.phi_q) or is_hooked(taps.phi_k)

    # Gradients flow one way: through the scores if these are hooked too.
    weights = None
    if are_edited or (are_hooked and not is_hooked(taps.scores)):
        weights = phi_q @ phi_k.mT
    return _Features(phi_q, phi_k, weights, are_edited)


def _widened(inputs: AttentionInputs) -> AttentionInputs:
    """The inputs in float32 or wider, in which sums and the division are computed."""
    wide = torch.promote_types(torch.float32, inputs.q.dtype)
    return AttentionInputs(
        inputs.q.to(wide),
        inputs.k.to(wide),
        inputs.v.to(wide),
        inputs.state,
        inputs.returns_state,
    )


def _pass_features(tap: nn.Module, features: Tensor) -> tuple[Tensor, bool]:
    features = rearrange(features, "b h t f -> b t h f")
    features, is_edited = pass_through(tap, features)
    features = rearrange(features, "b t h f -> b h t f")
    return features, is_edited


def _state_after(
    before: AttentionState | None, phi_k: Tensor, v: Tensor
) -> AttentionState:
    kv = phi_k.mT @ v
    k = phi_k.sum(-2)
    if before is not None:
        kv = before.kv + kv
        k = before.k + k
    return AttentionState(kv, k)
