"""The definition of ``quadratic_attention``, in its three forms.

Every form takes queries and keys [*batch, pos, d], values [*batch, pos, d_v] and the
state of the tokens before them, and returns the output [*batch, pos, d_v] and the state
after them. Sums, the denominator and the division are in ``accumulator``'s dtype.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sae_lens_ext.kernels.autocast import without_autocast
from sae_lens_ext.kernels.quadratic_attention.features import (
    Coefficients,
    map_features,
    n_features,
)


class AttentionState(NamedTuple):
    """A summary of earlier tokens: all that later ones need of their keys and values.

    It belongs to the coefficients and the scale that it was computed with. It is
    float32, or float64 for float64 inputs. Calls that start from a state do not change
    it, so it can be stored, and continued from more than once.
    """

    kv: Tensor
    """[*batch, features, d_v], the sum of phi(k) v^T."""
    k: Tensor
    """[*batch, features], the sum of phi(k)."""


class FeatureMap(NamedTuple):
    """The polynomial that turns scores into weights, and how weights are normalised."""

    c: Coefficients
    scale: float
    eps: float
    """Added to the sum of the weights before the division."""

    def of_scores(self, scores: Tensor) -> Tensor:
        """The weights c0 + c1 s + c2 s^2."""
        c0, c1, c2 = self.c
        # In one expression, so that no step outlives the next one: dense scores can be
        # the largest tensors of all.
        return c0 + scores * (c1 + c2 * scores)

    def features(self, x: Tensor) -> Tensor:
        """The features phi(x), [..., d] -> [..., features]."""
        return map_features(x, self.c, self.scale)


def divisor(
    total: Tensor,
    q: Tensor,
    n: Tensor | None,
    feature_map: FeatureMap,
) -> Tensor:
    """The number that each token's weighted sum of values is divided by.

    It is the sum of the token's weights plus eps; or infinity, where that sum is below
    its own rounding error.

    The part that is read from a state is the inner product of phi(q) and n, the sum of
    phi(k). Where large terms of it cancel, it is noise of about eps |phi(q)| |n|, with
    the machine epsilon of the dtype. A sum of weights within that noise counts as 0:
    the output of its token is 0, and no gradient flows through it.

    Args:
        total: [..., pos], the sums of the weights.
        q: [..., pos, d], in the same dtype.
        n: [..., features], the ``k`` of the state that was read, with the leading axes
            of ``total``, or 1 in their place. None if no state was read.
        feature_map: of the weights.
    """
    # Only what is read from a state can be noise.
    total_and_eps = total + feature_map.eps
    if n is None:
        return total_and_eps

    # |phi(q)|^2 is the weight of q for itself. Detached, because where the noise begins
    # has no derivative.
    square_of_q = q.detach().square().sum(-1)
    own_score = feature_map.scale * square_of_q
    own_weight = feature_map.of_scores(own_score)
    phi_q_norm = own_weight.sqrt()
    n_norm = torch.linalg.vector_norm(n.detach(), dim=-1)

    rounding = torch.finfo(total.dtype).eps
    noise = rounding * phi_q_norm * n_norm
    is_noise = total.abs() <= noise
    return torch.where(is_noise, math.inf, total_and_eps)


def empty_state(k: Tensor, v: Tensor, feature_map: FeatureMap) -> AttentionState:
    """The state before the first token, for keys and values of these shapes."""
    *batch, _, d = k.shape
    d_v = v.shape[-1]
    dtype = accumulator(k)
    features = n_features(d, feature_map.c)
    return AttentionState(
        kv=k.new_zeros((*batch, features, d_v), dtype=dtype),
        k=k.new_zeros((*batch, features), dtype=dtype),
    )


def accumulator(tensor: Tensor) -> torch.dtype:
    """The dtype of sums and of the division: float32, or float64 for float64.

    In half precision sums overflow, and eps is rounded to 0.
    """
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
    wide_q = q.to(dtype)
    wide_k = k.to(dtype)
    wide_v = v.to(dtype)

    scores = feature_map.scale * wide_q @ wide_k.mT
    weights = feature_map.of_scores(scores).tril()
    numerator = weights @ wide_v
    total = weights.sum(-1)

    # Tokens before these, through the features.
    n = None
    if state is not None:
        phi_q = feature_map.features(wide_q)
        numerator_before = phi_q @ state.kv
        total_before = phi_q @ state.k.unsqueeze(-1)

        # Not in place, because autograd needs what was added.
        numerator = numerator + numerator_before
        total = total + total_before.squeeze(-1)
        n = state.k.unsqueeze(-2)

    by = divisor(total, wide_q, n, feature_map)
    out = numerator / by.unsqueeze(-1)
    out = out.to(v.dtype)
    if not wants_state:
        return out, None

    if state is None:
        state = empty_state(k, v, feature_map)
    phi_k = feature_map.features(wide_k)
    after = AttentionState(
        kv=state.kv + phi_k.mT @ wide_v,
        k=state.k + phi_k.sum(-2),
    )
    return out, after


def chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    state: AttentionState | None,
    wants_state: bool = True,
    chunk: int = 64,
) -> tuple[Tensor, AttentionState | None]:
    """Scores of ``chunk`` tokens with each other, and a state for all before them."""
    pos = q.shape[-2]
    n_chunks = -(-pos // chunk)
    chunks = zip(
        q.split(chunk, dim=-2),
        k.split(chunk, dim=-2),
        v.split(chunk, dim=-2),
        strict=True,
    )

    outs = []
    for i, (chunk_q, chunk_k, chunk_v) in enumerate(chunks, start=1):
        # The state after the last chunk is read by no other.
        needs_state = wants_state or i < n_chunks
        out, state = dense(
            chunk_q,
            chunk_k,
            chunk_v,
            feature_map,
            state,
            needs_state,
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
    """One token after the other: each reads the state, and is then added to it.

    A token's score with itself is squared as a number rather than read from the state,
    so that the first token gets its own value however small that score is.
    """
    if state is None:
        kv, n = empty_state(k, v, feature_map)
    elif q.shape[-2]:
        kv, n = state
    else:
        # Copies, because the caller may change the returned state in place.
        kv = state.kv.clone()
        n = state.k.clone()

    dtype = accumulator(q)
    tokens = zip(
        q.to(dtype).unbind(-2),
        k.to(dtype).unbind(-2),
        v.to(dtype).unbind(-2),
        strict=True,
    )
    outs = []
    for token_q, token_k, token_v in tokens:
        phi_q = feature_map.features(token_q)
        phi_k = feature_map.features(token_k)

        product = (token_q * token_k).sum(-1)
        own_score = feature_map.scale * product
        own_weight = feature_map.of_scores(own_score)
        own_numerator = own_weight.unsqueeze(-1) * token_v

        # Tokens before this one, through the state.
        total_before = (phi_q * n).sum(-1)
        row_before = phi_q.unsqueeze(-2) @ kv
        numerator_before = row_before.squeeze(-2)

        total = total_before + own_weight
        numerator = numerator_before + own_numerator
        by = divisor(total, token_q, n, feature_map)
        outs.append(numerator / by.unsqueeze(-1))

        # Not in place, because autograd needs the state that was read.
        kv = torch.addcmul(kv, phi_k.unsqueeze(-1), token_v.unsqueeze(-2))
        n = n + phi_k

    # Without tokens there is nothing to stack.
    if not outs:
        return v.clone(), AttentionState(kv, n)

    out = torch.stack(outs, dim=-2)
    return out.to(v.dtype), AttentionState(kv, n)
