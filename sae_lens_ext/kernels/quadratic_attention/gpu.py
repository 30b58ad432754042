"""``quadratic_attention`` on a GPU: scores within a chunk, a state for all before it.

The dense form has one chunk for all tokens: its time is quadratic in their number, and
nothing quadratic is stored. In the chunked form the states before all chunks are
computed first, at once; in the backward pass so are their gradients after all chunks.
These take features * (d_v + 1) * 4 / chunk bytes per token and head, and only one of
the two exists at a time. The mathematics is that of ``chunked.py``. In the backward
pass queries and keys change roles and time runs the other way, so that each Triton
program serves twice.

Where q and k are wider than 64, the features are so many that nearly all of the work is
products of large matrices, which torch multiplies as fast as any program. There the
code of ``chunked.py`` runs on the GPU, in either form, and
``torch.backends.cuda.matmul.allow_tf32`` applies to it.
"""

import torch
from torch import Tensor

from sae_lens_ext.kernels.quadratic_attention import chunked, operator, plan
from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.gpu_gradients import grad_scores
from sae_lens_ext.kernels.quadratic_attention.gpu_layout import Layout
from sae_lens_ext.kernels.quadratic_attention.gpu_states import Values, prefix_sums
from sae_lens_ext.kernels.quadratic_attention.gpu_sums import sum_values
from sae_lens_ext.kernels.quadratic_attention.implementation import Results
from sae_lens_ext.kernels.quadratic_attention.reference import (
    AttentionState,
    FeatureMap,
)

# Tokens in a chunk, a multiple of those in any tile. Counted for d = 16 and d_v = 64:
# its scores cost less than reading its state.
_CHUNK = 256
# The largest d of which a tile holds whole queries: above it registers are spilled, and
# shared memory runs out.
_WIDEST = 64


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    state: AttentionState | None,
    wants_state: bool,
    form: str,
) -> tuple[Tensor, AttentionState | None]:
    """See ``operator.run``; ``form`` is "auto", "dense" or "chunked"."""
    pos, d = q.shape[-2:]
    if d > _WIDEST:
        name = "quadratic_attention_wide_gpu"
        chunk = plan.CHUNK
    else:
        name = "quadratic_attention_gpu"
        is_dense = form == "dense" or (
            form == "auto" and _is_short(pos, d, v.shape[-1], feature_map)
        )
        chunk = 0 if is_dense else _CHUNK
    return operator.run(name, q, k, v, feature_map, state, wants_state, chunk)


def _is_short(
    pos: int,
    d: int,
    d_v: int,
    feature_map: FeatureMap,
) -> bool:
    """Whether one chunk for all tokens needs at most twice as many multiplications.

    It needs no states in memory, and fewer launches.
    """
    # Half of the scores are of later tokens, and are not computed.
    dense_cost = pos / 2 * (d + d_v)
    state_cost = n_features(d, feature_map.c) * (d_v + 1)
    chunked_cost = _CHUNK / 2 * (d + d_v) + 2 * state_cost
    return dense_cost <= 2 * chunked_cost


def _find_sums(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial_state: Tensor | None,
    feature_map: FeatureMap,
    chunk: int,
    wants_state: bool,
) -> Results:
    """See ``implementation.Attend``."""
    layout = Layout(q, v, feature_map, chunk)
    ones = torch.ones(q.shape[:2], dtype=torch.float32, device=q.device)
    values = Values(v, ones)
    out = torch.empty_like(v)
    divisor = torch.empty_like(ones)

    reads_states = initial_state is not None or layout.n_chunks > 1
    states = None
    if reads_states or wants_state:
        states = prefix_sums(layout, k, values, initial_state)
    sum_values(layout, q, k, v, states if reads_states else None, out, divisor)

    final_state = divisor.new_empty(0)
    if wants_state and states is not None:
        final_state = states.at(-1)
    return Results(out, divisor, final_state)


def _find_gradients(
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
    layout = Layout(q, v, feature_map, chunk)
    values = Values(v, torch.ones_like(divisor))
    grad_value = grad_out.float() / divisor.unsqueeze(-1)
    grad_sums = Values(grad_value, -(grad_value * out).sum(-1))
    grad_q = torch.empty_like(q)
    grad_k = torch.empty_like(k)
    grad_v = torch.empty_like(v)

    before = None
    if initial_state is not None or layout.n_chunks > 1:
        before = prefix_sums(layout, k, values, initial_state)
    grad_scores(layout, q, grad_sums, k, values, before, grad_q, is_reverse=False)
    # The states are freed before their gradients are computed.
    del before

    has_after = grad_final_state is not None or layout.n_chunks > 1
    grad_states = None
    grad_initial_state = divisor.new_empty(0)
    if has_after or initial_state is not None:
        grad_states = prefix_sums(
            layout,
            q,
            grad_sums,
            grad_final_state,
            is_reverse=True,
        )
        if initial_state is not None:
            grad_initial_state = grad_states.at(0)
    after = grad_states if has_after else None
    grad_scores(layout, k, values, q, grad_sums, after, grad_k, is_reverse=True)
    sum_values(layout, k, q, grad_value, after, grad_v, None)
    return grad_q, grad_k, grad_v, grad_initial_state


operator.register("quadratic_attention_gpu", _find_sums, _find_gradients)
operator.register(
    "quadratic_attention_wide_gpu", chunked.find_sums, chunked.find_gradients
)
