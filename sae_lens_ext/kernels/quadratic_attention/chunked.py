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
    chunk = plan.CHUNK
    if form == "auto":
        pos, d = q.shape[-2:]
        d_v = v.shape[-1]
        n_ends = (state is not None) + wants_state
        if plan.is_short(pos, d, d_v, feature_map, n_ends):
            # One chunk for all tokens.
            chunk = 0

    return operator.run(
        "quadratic_attention_cpu",
        q,
        k,
        v,
        feature_map,
        state,
        wants_state,
        chunk,
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
    d_v = v.shape[-1]
    features = FeatureRows(d, feature_map)
    chunks = plan.split_tokens(pos, chunk)

    out = torch.empty_like(v)
    divisor = q.new_empty(n, pos, dtype=reference.accumulator(q))
    # An operator returns a tensor for every result; an empty one stands for None.
    state_shape = (0,)
    if wants_state:
        state_shape = (n, features.n, d_v + 1)
    final_state = divisor.new_zeros(state_shape)

    # Features have no names below, here and in the gradients: of all tensors they are
    # the largest, and so their memory is free again before the next ones are computed.
    for group in plan.group_sequences(q, chunks, features.n):
        # A copy, because S is changed in place.
        S = None if initial_state is None else initial_state[group].clone()
        for tokens in chunks:
            part = (group, tokens)
            rows_q = _rows(q[part])
            rows_k = _rows(k[part])
            v1 = _with_ones(v[part])

            scores = _scores(rows_q, rows_k, feature_map)
            weights = _weights(scores, feature_map)
            sums = weights @ v1
            n_before = None
            if S is not None:
                # Not baddbmm: MKL adds every product to the running sum there (on AMD
                # CPUs), so that thousands of features round at the size of the whole.
                sums += features.of(rows_q).mT @ S
                # The column of ones has summed up the features themselves.
                n_before = S[:, None, :, -1]

            numerator = sums[..., :-1]
            total = sums[..., -1]
            by = reference.divisor(total, rows_q.mT, n_before, feature_map)
            divisor[part] = by
            torch.div(numerator, by.unsqueeze(-1), out=out[part])

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
        product = (grad * self.out).sum(-1, keepdim=True)
        grad_sums = torch.cat([grad, -product], dim=-1)

        # An infinite divisor makes all of a token's gradient 0.
        by = self.divisor.unsqueeze(-1)
        return grad_sums.div_(by)


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

    has_initial_state = initial_state is not None
    for group in plan.group_sequences(q, chunks, features.n):
        group_inputs = inputs.at(group)
        group_grads = gradients.at(group)

        # Copies, because S and G are changed in place.
        S = None if initial_state is None else initial_state[group].clone()
        _go_up(
            group_inputs,
            group_grads,
            S,
            chunks,
            features,
            feature_map,
        )

        G = None if grad_final_state is None else grad_final_state[group].clone()
        G = _go_down(
            group_inputs,
            group_grads,
            G,
            chunks,
            features,
            has_initial_state,
        )
        if has_initial_state and G is not None:
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
        where = (slice(None), tokens)
        part = inputs.at(where)
        grads = gradients.at(where)
        rows_q = _rows(part.q)
        rows_k = _rows(part.k)
        v1 = _with_ones(part.v)
        grad_sums = part.grad_sums()

        # In this order, because the slope takes the place of the scores.
        scores = _scores(rows_q, rows_k, feature_map)
        weights = _weights(scores, feature_map)
        slope = _slope(scores, feature_map)

        # dP times the derivative of the weights by <q, k>.
        grad_scores = slope.mul_(grad_sums @ v1.mT)
        grad_q = rows_k @ grad_scores.mT
        grad_k = rows_q @ grad_scores
        grad_v1 = weights.mT @ grad_sums

        # By way of the state that the queries read.
        if S is not None:
            grad_q += features.gradient(rows_q, S @ grad_sums.mT)

        grads.q.copy_(grad_q.mT)
        grads.k.copy_(grad_k.mT)
        # The ones are constants.
        grads.v.copy_(grad_v1[..., :-1])

        # No chunk reads the state after the last one.
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
        where = (slice(None), tokens)
        part = inputs.at(where)
        grads = gradients.at(where)

        if G is not None:
            rows_k = _rows(part.k)
            v1 = _with_ones(part.v)

            grad_k = features.gradient(rows_k, G @ v1.mT)
            grad_v1 = features.of(rows_k).mT @ G
            grads.k.add_(grad_k.mT)
            grads.v.add_(grad_v1[..., :-1])

        # The first chunk reads a state only if there was one before it.
        if has_initial_state or tokens is not chunks[0]:
            rows_q = _rows(part.q)
            G = _add_product(G, features.of(rows_q), part.grad_sums())
    return G


operator.register("quadratic_attention_cpu", find_sums, find_gradients)


def _rows(x: Tensor) -> Tensor:
    """The vectors as ``FeatureRows`` takes them, [n, tokens, d] -> [n, d, tokens]."""
    dtype = reference.accumulator(x)
    return x.mT.to(dtype).contiguous()


def _with_ones(v: Tensor) -> Tensor:
    """``[v, 1]``, in the dtype of sums."""
    dtype = reference.accumulator(v)
    return pad(v.to(dtype), (0, 1), value=1.0)


def _add_product(total: Tensor | None, phi: Tensor, values: Tensor) -> Tensor:
    """Add phi values to ``total`` in place; None is 0."""
    if total is None:
        return phi @ values
    return total.baddbmm_(phi, values)


def _scores(rows_q: Tensor, rows_k: Tensor, feature_map: FeatureMap) -> Tensor:
    """The scores of a chunk's tokens with each other, [n, query, key]."""
    # The queries, because they are usually fewer numbers than the scores.
    scaled_q = rows_q * feature_map.scale
    return scaled_q.mT @ rows_k


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
