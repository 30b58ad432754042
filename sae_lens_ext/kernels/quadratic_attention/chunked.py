"""``quadratic_attention`` in chunks of tokens: linear time, in bounded memory.

Within a chunk all scores are computed, as in the dense form. What came before the chunk
is read from the state, through the features of the queries. A column of ones beside the
values makes the sum of the weights one more value.

Let P be the weights of a chunk's tokens for each other, and S the state before the
chunk. Then N = [numerator, denominator] = P [v, 1] + phi(q) S, and out is numerator /
divisor. For the gradient g of out, that of N is dN = [g, -<g, out>] / divisor, and

    dP      = dN [v, 1]^T            d phi(q) = dN S^T
    d[v, 1] = P^T dN + phi(k) G      d phi(k) = [v, 1] G^T

G is the gradient of the state after the chunk: the sum of phi(q)^T dN over all later
tokens, and the gradient of the final state. The backward pass goes up the chunks to
compute S again, and then down to compute G. The divisor is the denominator plus eps, or
infinity, in which case the token gets 0 and gives no gradient (``reference.divisor``).

This is the "cpu" backend. It is plain torch, and also serves GPUs where the features
are too many for the Triton programs.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from sae_lens_ext.kernels.quadratic_attention import operator, plan, reference
from sae_lens_ext.kernels.quadratic_attention.feature_rows import FeatureRows
from sae_lens_ext.kernels.quadratic_attention.implementation import Results
from sae_lens_ext.kernels.quadratic_attention.reference import (
    AttentionState,
    FeatureMap,
)


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
    pos, d = q.shape[-2:]
    n_ends = (state is not None) + wants_state
    is_whole = form == "auto" and plan.is_short(
        pos, d, v.shape[-1], feature_map, n_ends
    )
    chunk = 0 if is_whole else plan.CHUNK
    return operator.run(
        "quadratic_attention_cpu", q, k, v, feature_map, state, wants_state, chunk
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
    """See ``implementation.Attend``."""
    n, pos, d = q.shape
    features = FeatureRows(d, feature_map)
    chunks = plan.split_tokens(pos, chunk)

    out = torch.empty_like(v)
    divisor = q.new_empty(n, pos, dtype=reference.accumulator(q))
    state_shape = (n, features.n, v.shape[-1] + 1) if wants_state else (0,)
    final_state = divisor.new_zeros(state_shape)

    for group in plan.group_sequences(q, chunks, features.n):
        # A copy, because S is changed in place.
        S = None if initial_state is None else initial_state[group].clone()
        for tokens in chunks:
            part = (group, tokens)
            rows_q = _rows(q[part])
            rows_k = _rows(k[part])
            v1 = _with_ones(v[part])

            scores = _scores(rows_q, rows_k, feature_map)
            sums = _weights(scores, feature_map) @ v1
            if S is not None:
                # Not baddbmm: MKL adds every product to the running sum there (on AMD
                # CPUs), so that thousands of features round at the size of the whole.
                sums += features.of(rows_q).mT @ S

            n_before = None if S is None else S[:, None, :, -1]
            divisor[part] = reference.divisor(
                sums[..., -1], rows_q.mT, n_before, feature_map
            )
            torch.div(sums[..., :-1], divisor[part].unsqueeze(-1), out=out[part])

            # The state after the last chunk is not read here.
            if wants_state or tokens is not chunks[-1]:
                S = _add_product(S, features.of(rows_k), v1)
        if wants_state and S is not None:
            final_state[group] = S
    return Results(out, divisor, final_state)


class _Tokens(NamedTuple):
    """What the backward pass reads, of all tokens or of a part of them."""

    q: Tensor
    k: Tensor
    v: Tensor
    grad_out: Tensor
    out: Tensor
    divisor: Tensor

    def at(self, part: slice | tuple[slice, slice]) -> "_Tokens":
        return _Tokens(*(tensor[part] for tensor in self))

    def grad_sums(self) -> Tensor:
        """dN, [n, tokens, d_v + 1]."""
        grad = self.grad_out.to(self.divisor.dtype)
        grad_total = -(grad * self.out).sum(-1, keepdim=True)
        grad_sums = torch.cat([grad, grad_total], dim=-1)
        return grad_sums.div_(self.divisor.unsqueeze(-1))


class _Gradients(NamedTuple):
    """What the backward pass writes, of all tokens or of a part of them."""

    q: Tensor
    k: Tensor
    v: Tensor

    def at(self, part: slice | tuple[slice, slice]) -> "_Gradients":
        return _Gradients(*(tensor[part] for tensor in self))


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
    """See ``implementation.Gradients``."""
    _, pos, d = q.shape
    features = FeatureRows(d, feature_map)
    chunks = plan.split_tokens(pos, chunk)

    inputs = _Tokens(q, k, v, grad_out, out, divisor)
    # In the dtype of sums, because two passes add to them.
    gradients = _Gradients(
        *(torch.empty_like(tensor, dtype=divisor.dtype) for tensor in (q, k, v))
    )
    state_shape = (0,) if initial_state is None else initial_state.shape
    grad_state = divisor.new_zeros(state_shape)

    for group in plan.group_sequences(q, chunks, features.n):
        S = None if initial_state is None else initial_state[group].clone()
        G = None if grad_final_state is None else grad_final_state[group].clone()
        group_inputs = inputs.at(group)
        group_grads = gradients.at(group)

        _go_up(group_inputs, group_grads, S, chunks, features, feature_map)
        has_initial_state = initial_state is not None
        G = _go_down(group_inputs, group_grads, G, chunks, features, has_initial_state)
        if initial_state is not None and G is not None:
            grad_state[group] = G

    return (
        gradients.q.to(q.dtype),
        gradients.k.to(k.dtype),
        gradients.v.to(v.dtype),
        grad_state,
    )


def _go_up(
    inputs: _Tokens,
    gradients: _Gradients,
    S: Tensor | None,
    chunks: list[slice],
    features: FeatureRows,
    feature_map: FeatureMap,
) -> None:
    """Write the gradient of q, and those of k and v by way of their own chunk."""
    for tokens in chunks:
        part = inputs.at((slice(None), tokens))
        grads = gradients.at((slice(None), tokens))
        rows_q = _rows(part.q)
        rows_k = _rows(part.k)
        v1 = _with_ones(part.v)
        grad_sums = part.grad_sums()

        scores = _scores(rows_q, rows_k, feature_map)
        weights = _weights(scores, feature_map)
        grad_scores = _slope(scores, feature_map).mul_(grad_sums @ v1.mT)
        grad_q = rows_k @ grad_scores.mT
        # By way of the state that the queries read.
        if S is not None:
            grad_q += features.gradient(rows_q, S @ grad_sums.mT)

        grads.q.copy_(grad_q.mT)
        grads.k.copy_((rows_q @ grad_scores).mT)
        grads.v.copy_((weights.mT @ grad_sums)[..., :-1])
        if tokens is not chunks[-1]:
            S = _add_product(S, features.of(rows_k), v1)


def _go_down(
    inputs: _Tokens,
    gradients: _Gradients,
    G: Tensor | None,
    chunks: list[slice],
    features: FeatureRows,
    has_initial_state: bool,
) -> Tensor | None:
    """Add the gradients of k and v by way of the states that later chunks read.

    Returns:
        The gradient of the initial state, if there was one.
    """
    for tokens in reversed(chunks):
        part = inputs.at((slice(None), tokens))
        grads = gradients.at((slice(None), tokens))

        if G is not None:
            rows_k = _rows(part.k)
            v1 = _with_ones(part.v)
            grads.k.add_(features.gradient(rows_k, G @ v1.mT).mT)
            grads.v.add_((features.of(rows_k).mT @ G)[..., :-1])

        # The first chunk reads a state only if there was one before it.
        if has_initial_state or tokens is not chunks[0]:
            G = _add_product(G, features.of(_rows(part.q)), part.grad_sums())
    return G


operator.register("quadratic_attention_cpu", find_sums, find_gradients)


def _rows(x: Tensor) -> Tensor:
    """The vectors as ``FeatureRows`` takes them, [n, tokens, d] -> [n, d, tokens]."""
    return x.mT.to(reference.accumulator(x)).contiguous()


def _with_ones(v: Tensor) -> Tensor:
    return pad(v.to(reference.accumulator(v)), (0, 1), value=1.0)


def _add_product(total: Tensor | None, phi: Tensor, values: Tensor) -> Tensor:
    """Add phi values to ``total`` in place; None is 0."""
    return phi @ values if total is None else total.baddbmm_(phi, values)


def _scores(rows_q: Tensor, rows_k: Tensor, feature_map: FeatureMap) -> Tensor:
    """The scores of a chunk's tokens with each other, [n, query, key]."""
    return (rows_q * feature_map.scale).mT @ rows_k


def _weights(scores: Tensor, feature_map: FeatureMap) -> Tensor:
    """The causal weights of a chunk's tokens for each other."""
    c0, c1, c2 = feature_map.c
    if (c0, c1, c2) == (0, 0, 1):
        # ReBased, in one pass over the scores instead of three.
        weights = scores * scores
    else:
        weights = (scores * c2).add_(c1).mul_(scores).add_(c0)
    return weights.tril_()


def _slope(scores: Tensor, feature_map: FeatureMap) -> Tensor:
    """The derivative of the causal weights by <q, k>, in the place of the scores."""
    _, c1, c2 = feature_map.c
    slope = scores.mul_(2 * c2 * feature_map.scale)
    if c1:
        slope.add_(c1 * feature_map.scale)
    return slope.tril_()
