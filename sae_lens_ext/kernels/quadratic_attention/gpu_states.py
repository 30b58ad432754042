"""States of all chunks at once, in Triton.

States lie in slots: the state before chunk i is in slot i, and the gradient of the
state after it in slot i + 1. A program computes the sum of each chunk in its slot, and
another one adds the slots up in place. For names in Triton code see
``gpu_features.py``.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_lens_ext.kernels.quadratic_attention.gpu_features import (
    features_of_kind,
    load_tile,
    rows_of_kind,
)
from sae_lens_ext.kernels.quadratic_attention.gpu_layout import Layout, launch

# Elements that one program of a prefix sum adds up.
SCAN = 1024


class Values(NamedTuple):
    """What tokens contribute to the numerator of attention, and to its denominator."""

    value: Tensor
    """[n, pos, d_v]."""
    normalizer: Tensor
    """[n, pos], float32."""


class States(NamedTuple):
    """A slot before the first chunk, and one after every chunk; in float32."""

    kv: Tensor
    """[n, slots, features, d_v]."""
    k: Tensor
    """[n, slots, features]."""

    def at(self, slot: int) -> Tensor:
        """The state in a slot, [n, features, d_v + 1]."""
        kv = self.kv[:, slot]
        k = self.k[:, slot].unsqueeze(-1)
        return torch.cat([kv, k], dim=-1)


def prefix_sums(
    layout: Layout,
    x: Tensor,
    of_x: Values,
    start: Tensor | None,
    *,
    is_reverse: bool = False,
) -> States:
    """Sum the products of features and values over all chunks before each slot.

    Args:
        layout: of the programs.
        x: the vectors whose features these are.
        of_x: the values of the same tokens.
        start: [n, features, d_v + 1], added to every sum; None is 0.
        is_reverse: whether to sum over all chunks after each slot instead.
    """
    n_slots = layout.n_chunks + 1
    shape = (layout.n, n_slots, layout.n_features)
    states = States(
        kv=of_x.normalizer.new_empty(*shape, layout.d_v),
        k=of_x.normalizer.new_empty(shape),
    )

    # The slot that no chunk writes.
    first = -1 if is_reverse else 0
    states.kv[:, first] = 0 if start is None else start[..., :-1]
    states.k[:, first] = 0 if start is None else start[..., -1]

    # At least one block, because the sums of features do not depend on values.
    n_value_blocks = max(1, layout.n_value_blocks())
    launch(
        _sum_features,
        (layout.n * layout.n_chunks, layout.n_kinds, n_value_blocks),
        x,
        *of_x,
        *states,
        *layout.sizes,
        is_reverse,
        *layout.constants,
        *layout.tiles,
    )

    for sums in states:
        # Of one slot of one sequence.
        width = sums[0, 0].numel() if layout.n else 0
        n_parts = triton.cdiv(width, SCAN)
        launch(
            _add_up,
            (layout.n, n_parts),
            sums,
            n_slots,
            width,
            is_reverse,
            SCAN,
        )
    return states


@triton.jit
@no_type_check
def _sum_features(
    p_x,
    p_value,
    p_normalizer,
    p_kv,
    p_k,
    T,
    D,
    V,
    F,
    CHUNK,
    SLOTS,
    REVERSE: tl.constexpr,
    C0: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    SCALE: tl.constexpr,
    W0: tl.constexpr,
    W1: tl.constexpr,
    W_SQUARE: tl.constexpr,
    W_PAIR: tl.constexpr,
    PRECISION: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BV: tl.constexpr,
):
    """Write the sum over a chunk of the features of one kind times the values."""
    n_chunks = SLOTS - 1
    i_kind = tl.program_id(1)
    i_v = tl.program_id(2)
    # 64 bits, because offsets into states can exceed 32.
    i_n = (tl.program_id(0) // n_chunks).to(tl.int64)
    i_chunk = tl.program_id(0) % n_chunks
    o_d = tl.arange(0, BD)
    o_v = i_v * BV + tl.arange(0, BV)

    b_kv = tl.zeros([BD, BV], tl.float32)
    b_k = tl.zeros([BD], tl.float32)
    i_start = i_chunk * CHUNK
    i_end = tl.minimum((i_chunk + 1) * CHUNK, T)
    for i_t in range(i_start, i_end, BT):
        o_t = i_t + tl.arange(0, BT)

        # [BT, BD]
        b_phi = features_of_kind(
            p_x,
            i_n,
            o_t,
            o_d,
            i_kind,
            T,
            D,
            C0,
            C1,
            W0,
            W1,
            W_SQUARE,
            W_PAIR,
        )

        # [BT, BV]
        b_value = load_tile(p_value, i_n, o_t, o_v, T, V)
        b_kv += tl.dot(tl.trans(b_phi), b_value, input_precision=PRECISION)

        # [BT]
        p_tokens = p_normalizer + i_n * T + o_t
        b_normalizer = tl.load(p_tokens, mask=o_t < T, other=0)
        b_k += tl.sum(b_phi * b_normalizer[:, None], 0)

    # The rows of the slot that belong to this kind.
    i_row, n_rows = rows_of_kind(i_kind, D, C0, C1)
    i_slot = i_n * SLOTS + i_chunk + (0 if REVERSE else 1)
    o_row = i_slot * F + i_row + o_d
    m_row = o_d < n_rows
    m_kv = m_row[:, None] & (o_v < V)[None, :]
    p_block = p_kv + o_row[:, None] * V + o_v[None, :]
    tl.store(p_block, b_kv, mask=m_kv)

    # The sum of the features does not depend on the part of the values' width.
    if i_v == 0:
        tl.store(p_k + o_row, b_k, mask=m_row)


@triton.jit
@no_type_check
def _add_up(p_sums, SLOTS, WIDTH, REVERSE: tl.constexpr, BW: tl.constexpr):
    """Add to every slot all slots before it, or all after it, in place."""
    i_n = tl.program_id(0).to(tl.int64)
    o_w = tl.program_id(1) * BW + tl.arange(0, BW)
    m_w = o_w < WIDTH

    b_sum = tl.zeros([BW], tl.float32)
    for i in range(0, SLOTS):
        i_slot = SLOTS - 1 - i if REVERSE else i
        p_slot = p_sums + (i_n * SLOTS + i_slot) * WIDTH + o_w
        # [BW]
        b_sum += tl.load(p_slot, mask=m_w, other=0)
        tl.store(p_slot, b_sum, mask=m_w)
