"""The definition of ``quadratic_attention``, in its three forms."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sae_lens_ext.kernels.autocast import without_autocast
from sae_lens_ext.kernels.quadratic_attention.features import (
    Coefficients,
    feature_map,
    n_features,
)


class AttentionState(NamedTuple):
    """What the tokens so far leave to those that come: all that their keys and values still matter for.

    It belongs to the coefficients and the scale it was made with. Its parts are float32, or float64 for float64 inputs; a later call
    reads them and does not change them, so a state can be kept, and gone on from several times.
    """

    kv: Tensor
    """[*batch, features, d_v], the sum of phi(k) v^T."""
    k: Tensor
    """[*batch, features], the sum of phi(k)."""


class FeatureMap(NamedTuple):
    """The function of q and k that weighs values."""

    c: Coefficients
    scale: float
    eps: float
    """Added to the sum of the weights before it divides."""

    def of_scores(self, scores: Tensor) -> Tensor:
        """c0 + c1 s + c2 s^2."""
        c0, c1, c2 = self.c
        return c0 + scores * (c1 + c2 * scores)

    def features(self, x: Tensor) -> Tensor:
        """phi(x)."""
        return feature_map(x, self.c, self.scale)


def divisor(
    total: Tensor, q: Tensor, n: Tensor | None, feature_map: FeatureMap
) -> Tensor:
    """What to divide by, given the sum of each token's weights: eps more; or infinity, where the sum is below its own rounding.

    What is read from a state is the product of phi(q) and n, the sum of phi(k): small where large terms cancel, and then noise of about
    eps |phi(q)| |n|, with the dtype's eps. A sum of weights that is no larger is nothing: the token gets 0, and no gradient.

    Args:
        total: [..., pos], the sums.
        q: [..., pos, d], in the same dtype.
        n: [..., features], the ``k`` of the state that was read, with the leading axes of ``total`` or 1 in their place; None if none was.
        feature_map: whose features they are.
    """
    if n is None:
        return total + feature_map.eps
    # |phi(q)|^2 is the kernel of q with itself.
    squared = feature_map.of_scores(feature_map.scale * q.detach().square().sum(-1))
    noise = (
        torch.finfo(total.dtype).eps
        * squared.sqrt()
        * torch.linalg.vector_norm(n.detach(), dim=-1)
    )
    return torch.where(total.abs() <= noise, math.inf, total + feature_map.eps)


def empty_state(k: Tensor, v: Tensor, feature_map: FeatureMap) -> AttentionState:
    """The state before the first token, for keys [*batch, pos, d] and values [*batch, pos, d_v]."""
    *batch, _, d = k.shape
    dtype, features = accumulator(k), n_features(d, feature_map.c)
    return AttentionState(
        k.new_zeros((*batch, features, v.shape[-1]), dtype=dtype),
        k.new_zeros((*batch, features), dtype=dtype),
    )


def accumulator(tensor: Tensor) -> torch.dtype:
    """The dtype of sums and of the division: in half precision sums would overflow, and eps would be 0."""
    return torch.promote_types(torch.float32, tensor.dtype)


@without_autocast
def dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    state: AttentionState | None,
    wants_state: bool = True,
) -> tuple[Tensor, AttentionState | None]:
    """All scores at once, [*batch, pos, pos]."""
    dtype = accumulator(q)
    wide_q, wide_k, wide_v = q.to(dtype), k.to(dtype), v.to(dtype)
    weights = feature_map.of_scores(feature_map.scale * wide_q @ wide_k.mT).tril()
    numerator, total = weights @ wide_v, weights.sum(-1)
    if state is not None:
        phi_q = feature_map.features(wide_q)
        numerator = numerator + phi_q @ state.kv
        total = total + (phi_q @ state.k.unsqueeze(-1)).squeeze(-1)
    out = numerator / divisor(
        total, wide_q, None if state is None else state.k.unsqueeze(-2), feature_map
    ).unsqueeze(-1)
    if not wants_state:
        return out.to(v.dtype), None
    phi_k, before = (
        feature_map.features(wide_k),
        empty_state(k, v, feature_map) if state is None else state,
    )
    return out.to(v.dtype), AttentionState(
        before.kv + phi_k.mT @ wide_v, before.k + phi_k.sum(-2)
    )


def chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    state: AttentionState | None,
    wants_state: bool = True,
    chunk: int = 64,
) -> tuple[Tensor, AttentionState | None]:
    """The scores of a few tokens with each other, and the state for all before them."""
    pieces = zip(*(one.split(chunk, dim=-2) for one in (q, k, v)), strict=True)
    outs, n_pieces = [], -(-q.shape[-2] // chunk)
    for i, (some_q, some_k, some_v) in enumerate(pieces, start=1):
        out, state = dense(
            some_q, some_k, some_v, feature_map, state, wants_state or i < n_pieces
        )
        outs.append(out)
    return torch.cat(outs, dim=-2), state


@without_autocast
def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    state: AttentionState | None,
) -> tuple[Tensor, AttentionState]:
    """One token after the other: each reads the state of those before it, with its own score beside, and is added to it.

    Its own score is squared as a number, not read from the state, so that the first token finds its own value however small that score is.
    """
    dtype, outs = accumulator(q), []
    # A copy, so that what is returned is not the given state itself even if there is no token.
    kv, n = (
        empty_state(k, v, feature_map)
        if state is None
        else state
        if q.shape[-2]
        else (part.clone() for part in state)
    )
    for one_q, one_k, one_v in zip(
        q.to(dtype).unbind(-2),
        k.to(dtype).unbind(-2),
        v.to(dtype).unbind(-2),
        strict=True,
    ):
        phi_q, phi_k = feature_map.features(one_q), feature_map.features(one_k)
        own = feature_map.of_scores(feature_map.scale * (one_q * one_k).sum(-1))
        by = divisor((phi_q * n).sum(-1) + own, one_q, n, feature_map)
        outs.append(
            ((phi_q.unsqueeze(-2) @ kv).squeeze(-2) + own.unsqueeze(-1) * one_v)
            / by.unsqueeze(-1)
        )
        kv, n = torch.addcmul(kv, phi_k.unsqueeze(-1), one_v.unsqueeze(-2)), n + phi_k
    return (
        torch.stack(outs, dim=-2).to(v.dtype) if outs else v.clone()
    ), AttentionState(kv, n)
