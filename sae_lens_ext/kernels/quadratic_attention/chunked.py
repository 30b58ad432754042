"""``quadratic_attention`` on a CPU: linear in the number of tokens, in memory that does not grow with it.

Tokens are taken in chunks. Within a chunk all scores are made, as in the dense form; what came before the chunk is read from the
state, through the features of the queries. A column of ones beside the values makes the sum of the weights one more value.

With N = [numerator, denominator] = P [v, 1] + phi(q) S, out = numerator / divisor and g the gradient of out, that of N is
dN = [g, -<g, out>] / divisor, and

    dP = dN [v, 1]^T    d phi(q) = dN S^T    d [v, 1] = P^T dN + phi(k) G    d phi(k) = [v, 1] G^T

where S is the state before the chunk, found by walking up the chunks, and G its gradient after the chunk, by walking down:
G is the sum of phi(q)^T dN over all later tokens and the gradient of the final state. The divisor is the denominator and eps, or
infinity (``reference.divisor``), whose token gets and gives 0.

It is plain torch, and serves on a GPU too where feature maps are wide.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from sae_lens_ext.kernels.quadratic_attention import operator, reference
from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.operator import Results
from sae_lens_ext.kernels.quadratic_attention.reference import (
    AttentionState,
    FeatureMap,
)

# Tokens in a chunk: with fewer the state is read more often, with more there are more scores.
CHUNK = 128
# All tokens are one chunk, however cheap that is, up to so many: scores are quadratic in memory.
_WHOLE_UP_TO = 4096
# What making a feature costs, in multiplications of a product of matrices; measured.
_MAKING = 4
# Numbers that are worked on at a time, in elements: they are passed over several times. In main memory scores, which stay in the cache;
# on a GPU features, enough to keep it busy.
_SCORES = 1 << 18
_FEATURES_ON_GPU = 1 << 27


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    state: AttentionState | None,
    wants_state: bool,
    form: str,
) -> tuple[Tensor, AttentionState | None]:
    """See ``operator.run``; ``form`` is "auto" or "chunked"."""
    ends = (state is not None) + wants_state
    chunk = (
        0
        if form == "auto"
        and _is_short(q.shape[-2], q.shape[-1], v.shape[-1], feature_map, ends)
        else CHUNK
    )
    return operator.run(
        "quadratic_attention_cpu", q, k, v, feature_map, state, wants_state, chunk
    )


def _is_short(pos: int, d: int, d_v: int, feature_map: FeatureMap, ends: int) -> bool:
    """Whether one chunk for all tokens multiplies less: per token, the scores with a chunk, and reading and writing a state.

    Of a state that was there before, or is wanted after, the one or the other is done in any case.
    """
    state = n_features(d, feature_map.c) * (d_v + 1 + _MAKING)
    return (
        pos <= _WHOLE_UP_TO
        and pos * (d + d_v) <= CHUNK * (d + d_v) + (2 - ends) * state
    )


def find_sums(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial_state: Tensor | None,
    feature_map: FeatureMap,
    chunk: int,
    wants_state: bool,
) -> Results:
    """See ``operator.Attend``."""
    n, pos, d = q.shape
    features = _Features(d, feature_map)
    out = torch.empty_like(v)
    divisor = q.new_empty(n, pos, dtype=reference.accumulator(q))
    final_state = divisor.new_zeros(
        (n, features.n, v.shape[-1] + 1) if wants_state else (0,)
    )
    chunks = _chunks(pos, chunk)
    for heads in _heads(q, chunks, features.n):
        S = None if initial_state is None else initial_state[heads].clone()
        for tokens in chunks:
            part = heads, tokens
            wide_q, wide_k, v1 = (
                _transposed(q[part]),
                _transposed(k[part]),
                _with_ones(v[part]),
            )
            sums = _weights(_scores(wide_q, wide_k, feature_map), feature_map) @ v1
            if S is not None:
                # Not baddbmm: MKL adds every product to the running sum there (on AMD
                # CPUs), so that thousands of features round at the size of the whole.
                sums += features.of(wide_q).mT @ S
            divisor[part] = reference.divisor(
                sums[..., -1],
                wide_q.mT,
                None if S is None else S[:, None, :, -1],
                feature_map,
            )
            torch.div(sums[..., :-1], divisor[part].unsqueeze(-1), out=out[part])
            if wants_state or tokens is not chunks[-1]:
                phi = features.of(wide_k)
                S = phi @ v1 if S is None else S.baddbmm_(phi, v1)
        if wants_state and S is not None:
            final_state[heads] = S
    return Results(out, divisor, final_state)


def find_gradients(
    grad_out: Tensor,
    grad_final_state: Tensor | None,
    out: Tensor,
    divisor: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial_state: Tensor | None,
    feature_map: FeatureMap,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``operator.Gradients``."""
    _, pos, d = q.shape
    features, dtype = _Features(d, feature_map), divisor.dtype
    grad_q, grad_k, grad_v = (torch.empty_like(one, dtype=dtype) for one in (q, k, v))
    grad_state = divisor.new_zeros(
        (0,) if initial_state is None else initial_state.shape
    )
    chunks = _chunks(pos, chunk)
    for heads in _heads(q, chunks, features.n):
        S = None if initial_state is None else initial_state[heads].clone()
        for tokens in chunks:
            part = heads, tokens
            wide_q, wide_k, v1 = (
                _transposed(q[part]),
                _transposed(k[part]),
                _with_ones(v[part]),
            )
            scores = _scores(wide_q, wide_k, feature_map)
            weights = _weights(scores, feature_map)
            grad_sums = _grad_sums(grad_out[part], out[part], divisor[part])
            grad_scores = _slope(scores, feature_map).mul_(grad_sums @ v1.mT)
            found_q = wide_k @ grad_scores.mT
            if S is not None:
                found_q += features.gradient(wide_q, S @ grad_sums.mT)
            grad_q[part] = found_q.mT
            grad_k[part] = (wide_q @ grad_scores).mT
            grad_v[part] = (weights.mT @ grad_sums)[..., :-1]
            if tokens is not chunks[-1]:
                phi = features.of(wide_k)
                S = phi @ v1 if S is None else S.baddbmm_(phi, v1)
        G = None if grad_final_state is None else grad_final_state[heads].clone()
        for tokens in reversed(chunks):
            part = heads, tokens
            if G is not None:
                wide_k, v1 = _transposed(k[part]), _with_ones(v[part])
                grad_k[part] += features.gradient(wide_k, G @ v1.mT).mT
                grad_v[part] += (features.of(wide_k).mT @ G)[..., :-1]
            if initial_state is not None or tokens is not chunks[0]:
                phi = features.of(_transposed(q[part]))
                grad_sums = _grad_sums(grad_out[part], out[part], divisor[part])
                G = phi @ grad_sums if G is None else G.baddbmm_(phi, grad_sums)
        if initial_state is not None and G is not None:
            grad_state[heads] = G
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype), grad_state


operator.register("quadratic_attention_cpu", find_sums, find_gradients)


def _heads(q: Tensor, chunks: list[slice], width: int) -> Iterator[slice]:
    """Which sequences to work on at a time."""
    longest = max((tokens.stop - tokens.start for tokens in chunks), default=1)
    on_cpu = q.device.type == "cpu"
    step = max(
        1,
        _SCORES // longest**2
        if on_cpu
        else _FEATURES_ON_GPU // (longest * max(longest, width)),
    )
    return (slice(start, min(start + step, len(q))) for start in range(0, len(q), step))


def _chunks(pos: int, chunk: int) -> list[slice]:
    size = chunk or max(pos, 1)
    return [slice(start, min(start + size, pos)) for start in range(0, pos, size)]


def _transposed(x: Tensor) -> Tensor:
    # With tokens last, the products that features are made of run over long rows.
    return x.mT.to(reference.accumulator(x)).contiguous()


def _with_ones(v: Tensor) -> Tensor:
    return pad(v.to(reference.accumulator(v)), (0, 1), value=1.0)


def _scores(q: Tensor, k: Tensor, feature_map: FeatureMap) -> Tensor:
    """Of a chunk's tokens with each other; q and k [n, d, tokens]."""
    return (q * feature_map.scale).mT @ k


def _weights(scores: Tensor, feature_map: FeatureMap) -> Tensor:
    """The causal weights of the tokens on each other."""
    c0, c1, c2 = feature_map.c
    weights = (
        scores * scores
        if (c0, c1, c2) == (0, 0, 1)
        else (scores * c2).add_(c1).mul_(scores).add_(c0)
    )
    return weights.tril_()


def _slope(scores: Tensor, feature_map: FeatureMap) -> Tensor:
    """How the causal weights change with q.k; in the place of the scores."""
    _, c1, c2 = feature_map.c
    slope = scores.mul_(2 * c2 * feature_map.scale)
    return (slope.add_(c1 * feature_map.scale) if c1 else slope).tril_()


def _grad_sums(grad_out: Tensor, out: Tensor, divisor: Tensor) -> Tensor:
    grad = grad_out.to(divisor.dtype)
    joined = torch.cat([grad, -(grad * out).sum(-1, keepdim=True)], dim=-1)
    return joined.div_(divisor.unsqueeze(-1))


class _Features:
    """``feature_map`` and its derivative, of tokens that lie along the last axis."""

    def __init__(self, d: int, feature_map: FeatureMap) -> None:
        self._d, self._feature_map = d, feature_map
        self.n = n_features(d, feature_map.c)
        self._first_pair = (feature_map.c[0] != 0) + d * (feature_map.c[1] != 0)

    def of(self, x: Tensor) -> Tensor:
        """[n, d, tokens] -> [n, features, tokens]."""
        n, d, tokens = x.shape
        (c0, c1, c2), start = self._feature_map.c, self._first_pair
        # Room for all of the last distance, half of which is cut off if d is even.
        phi = x.new_empty(n, start + (d // 2 + 1) * d * (c2 != 0), tokens)
        if c0:
            phi[:, 0] = math.sqrt(c0)
        if c1:
            torch.mul(
                x,
                math.sqrt(c1 * self._feature_map.scale),
                out=phi[:, start - d : start],
            )
        if c2:
            u, shifted = self._scaled(x)
            torch.mul(
                u.view(n, 1, d * tokens),
                shifted,
                out=phi[:, start:].view(n, -1, d * tokens),
            )
            phi[:, start : start + d] *= math.sqrt(0.5)
        return phi[:, : self.n]

    def gradient(self, x: Tensor, grad: Tensor) -> Tensor:
        """What ``grad`` [n, features, tokens] means for x."""
        n, d, tokens = x.shape
        (_, c1, c2), start = self._feature_map.c, self._first_pair
        found = (
            grad[:, start - d : start] * math.sqrt(c1 * self._feature_map.scale)
            if c1
            else torch.zeros_like(x)
        )
        if not c2:
            return found
        u, shifted = self._scaled(x)
        grad_pairs = x.new_zeros(n, (d // 2 + 1) * d, tokens)
        grad_pairs[:, : self.n - start] = grad[:, start:]
        grad_pairs[:, :d] *= math.sqrt(0.5)
        grad_pairs = grad_pairs.view(n, d // 2 + 1, d * tokens)
        grad_u = (grad_pairs * shifted).sum(1).view_as(x)
        grad_shifted = x.new_zeros(n, 2 * d, tokens)
        for distance, grad_products in enumerate(grad_pairs.unbind(1)):
            grad_shifted[:, distance : distance + d].addcmul_(
                grad_products.view_as(x), u
            )
        grad_u += grad_shifted[:, :d] + grad_shifted[:, d:]
        return found.add_(grad_u, alpha=self._factor())

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u, whose products are the features of two different coordinates, and u moved round, [n, distance, d * tokens]."""
        n, d, tokens = x.shape
        u = x * self._factor()
        twice = torch.cat([u, u], dim=1)
        return u, twice.as_strided(
            (n, d // 2 + 1, d * tokens), (2 * d * tokens, tokens, 1)
        )

    def _factor(self) -> float:
        return math.sqrt(
            math.sqrt(2 * self._feature_map.c[2]) * self._feature_map.scale
        )
