"""The definition of ``quadratic_attention``, in its three forms."""

from typing import NamedTuple

import torch
from torch import Tensor

from sae_lens_ext.kernels.quadratic_attention.features import Coefficients, feature_map, n_features


class AttentionState(NamedTuple):
    """What the tokens so far leave to those that come: all that their keys and values still matter for."""

    kv: Tensor
    """[*batch, features, d_v], the sum of phi(k) v^T."""
    k: Tensor
    """[*batch, features], the sum of phi(k)."""


class Kernel(NamedTuple):
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


def empty_state(k: Tensor, v: Tensor, kernel: Kernel) -> AttentionState:
    """The state before the first token, for keys [*batch, pos, d] and values [*batch, pos, d_v]."""
    *batch, _, d = k.shape
    dtype, features = accumulator(k), n_features(d, kernel.c)
    return AttentionState(k.new_zeros((*batch, features, v.shape[-1]), dtype=dtype), k.new_zeros((*batch, features), dtype=dtype))


def accumulator(tensor: Tensor) -> torch.dtype:
    """The dtype of sums and of the division: in half precision sums would overflow, and eps would be 0."""
    return torch.promote_types(torch.float32, tensor.dtype)


def dense(q: Tensor, k: Tensor, v: Tensor, kernel: Kernel, state: AttentionState | None) -> tuple[Tensor, AttentionState]:
    """All scores at once, [*batch, pos, pos]."""
    dtype = accumulator(q)
    wide_q, wide_k, wide_v = q.to(dtype), k.to(dtype), v.to(dtype)
    weights = kernel.of_scores(kernel.scale * wide_q @ wide_k.mT).tril()
    numerator, denominator = weights @ wide_v, weights.sum(-1)
    if state is not None:
        phi_q = kernel.features(wide_q)
        numerator = numerator + phi_q @ state.kv
        denominator = denominator + (phi_q @ state.k.unsqueeze(-1)).squeeze(-1)
    out = numerator / (denominator + kernel.eps).unsqueeze(-1)
    phi_k, before = kernel.features(wide_k), empty_state(k, v, kernel) if state is None else state
    return out.to(v.dtype), AttentionState(before.kv + phi_k.mT @ wide_v, before.k + phi_k.sum(-2))


def chunked(
    q: Tensor, k: Tensor, v: Tensor, kernel: Kernel, state: AttentionState | None, chunk: int = 64
) -> tuple[Tensor, AttentionState]:
    """The scores of a few tokens with each other, and the state for all before them."""
    outs = []
    for some_q, some_k, some_v in zip(q.split(chunk, dim=-2), k.split(chunk, dim=-2), v.split(chunk, dim=-2), strict=True):
        out, state = dense(some_q, some_k, some_v, kernel, state)
        outs.append(out)
    return torch.cat(outs, dim=-2), state if state is not None else empty_state(k, v, kernel)


def recurrent(q: Tensor, k: Tensor, v: Tensor, kernel: Kernel, state: AttentionState | None) -> tuple[Tensor, AttentionState]:
    """One token after the other."""
    state, outs = empty_state(k, v, kernel) if state is None else state, []
    for one_q, one_k, one_v in zip(q.unbind(-2), k.unbind(-2), v.unbind(-2), strict=True):
        out, state = step(one_q, one_k, one_v, kernel, state)
        outs.append(out)
    return torch.stack(outs, dim=-2) if outs else v.clone(), state


def step(q: Tensor, k: Tensor, v: Tensor, kernel: Kernel, state: AttentionState) -> tuple[Tensor, AttentionState]:
    """One token: it is added to the state, then read from it. Shapes [*batch, d], [*batch, d], [*batch, d_v]."""
    dtype = accumulator(q)
    phi_q, phi_k, wide_v = kernel.features(q.to(dtype)), kernel.features(k.to(dtype)), v.to(dtype)
    state = AttentionState(state.kv + phi_k.unsqueeze(-1) * wide_v.unsqueeze(-2), state.k + phi_k)
    numerator, denominator = (phi_q.unsqueeze(-2) @ state.kv).squeeze(-2), (phi_q * state.k).sum(-1, keepdim=True)
    return (numerator / (denominator + kernel.eps)).to(v.dtype), state
