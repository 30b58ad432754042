"""Weighted sums of values, in Triton: the output of attention, and the gradient of v.

For names in Triton code see ``gpu_features.py``.
"""

from typing import no_type_check

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
from sae_lens_ext.kernels.quadratic_attention.gpu_states import States

# The machine epsilon of float32, in which all sums are.
ROUNDING = tl.constexpr(2.0**-23)


def sum_values(
    layout: Layout,
    x: Tensor,
    y: Tensor,
    value: Tensor,
    states: States | None,
    out: Tensor,
    divisor: Tensor | None,
) -> None:
    """Write to ``out``, for every x, the weighted sum of the values of y.

    With a ``divisor`` the sum is over every y up to the position of x. It is divided by
    ``reference.divisor``, which is written too. Without one the sum is over every y
    from that position on, and not divided.

    Args:
        layout: of the programs.
        x: the vectors to sum for.
        y: the vectors to sum over.
        value: of the tokens of ``y``.
        states: of the chunks; None if none is to be read.
        out: [n, pos, d_v].
        divisor: [n, pos], float32; or None.
    """
    n_blocks = layout.n_blocks(layout.tiles)
    is_reverse = divisor is None
    has_state = states is not None

    # A program takes a pointer in any case, and does not use that of an absent tensor.
    kv, k = states or (value, value)
    norm = value
    if states is not None:
        norm = torch.linalg.vector_norm(states.k, dim=-1)
    if divisor is None:
        divisor = value

    launch(
        _sum_values,
        (layout.n * n_blocks, layout.n_value_blocks()),
        x,
        y,
        value,
        kv,
        k,
        norm,
        out,
        divisor,
        *layout.sizes,
        n_blocks,
        layout.n_kinds,
        layout.eps,
        is_reverse,
        has_state,
        *layout.constants,
        *layout.tiles,
    )


@triton.jit
@no_type_check
def _sum_values(
    p_x,
    p_y,
    p_value,
    p_kv,
    p_k,
    p_norm,
    p_out,
    p_divisor,
    T,
    D,
    V,
    F,
    CHUNK,
    SLOTS,
    BLOCKS,
    KINDS,
    eps,
    REVERSE: tl.constexpr,
    HAS_STATE: tl.constexpr,
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
    """See ``sum_values``; a program per tile of x and of the width of values."""
    # 64 bits, because offsets into values can exceed 32.
    i_n = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i_block = tl.program_id(0) % BLOCKS
    i_v = tl.program_id(1)
    o_t = i_block * BT + tl.arange(0, BT)
    o_d = tl.arange(0, BD)
    o_v = i_v * BV + tl.arange(0, BV)
    i_chunk = i_block * BT // CHUNK

    # [BT, BD]
    b_x = load_tile(p_x, i_n, o_t, o_d, T, D)
    b_sum = tl.zeros([BT, BV], tl.float32)
    b_normalizer = tl.zeros([BT], tl.float32)

    # Tokens of the same chunk, by their scores.
    if REVERSE:
        i_first = i_block * BT
        i_stop = tl.minimum((i_chunk + 1) * CHUNK, T)
    else:
        i_first = i_chunk * CHUNK
        i_stop = tl.minimum((i_block + 1) * BT, T)
    # Where a product is made of six, there are no registers left to load ahead.
    for i_y in tl.range(
        i_first, i_stop, BT, num_stages=1 if PRECISION == "bf16x6" else None
    ):
        o_y = i_y + tl.arange(0, BT)

        # [BT, BD]
        b_y = load_tile(p_y, i_n, o_y, o_d, T, D)

        # [BT, BT]
        b_scores = tl.dot(b_x, tl.trans(b_y), input_precision=PRECISION) * SCALE
        if REVERSE:
            m_pair = o_y[None, :] >= o_t[:, None]
        else:
            m_pair = o_y[None, :] <= o_t[:, None]
        b_weights = C0 + b_scores * (C1 + C2 * b_scores)
        m_weights = m_pair & (o_y < T)[None, :]
        b_weights = tl.where(m_weights, b_weights, 0.0)

        # [BT, BV]
        b_value = load_tile(p_value, i_n, o_y, o_v, T, V)
        b_sum += tl.dot(b_weights, b_value, input_precision=PRECISION)
        b_normalizer += tl.sum(b_weights, 1)

    # Tokens of other chunks, by the state.
    if HAS_STATE:
        i_slot = i_n * SLOTS + i_chunk + (1 if REVERSE else 0)
        p_slot_kv = p_kv + i_slot * F * V
        p_slot_k = p_k + i_slot * F
        for i_kind in range(0, KINDS):
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
            i_row, n_rows = rows_of_kind(i_kind, D, C0, C1)
            o_row = i_row + o_d
            m_row = o_d < n_rows
            m_kv = m_row[:, None] & (o_v < V)[None, :]
            p_block = p_slot_kv + o_row[:, None] * V + o_v[None, :]

            # [BD, BV]
            b_kv = tl.load(p_block, mask=m_kv, other=0)
            b_sum += tl.dot(b_phi, b_kv, input_precision=PRECISION)
            if not REVERSE:
                # [BD]
                b_k = tl.load(p_slot_k + o_row, mask=m_row, other=0)
                b_normalizer += tl.sum(b_phi * b_k[None, :], 1)

    if not REVERSE:
        b_divisor = b_normalizer + eps
        if HAS_STATE:
            # Below its own rounding error a sum of weights counts as 0. The weight of x
            # for itself is the square of the norm of its features.
            b_square = SCALE * tl.sum(b_x * b_x, 1)
            b_own_weight = C0 + b_square * (C1 + C2 * b_square)
            b_phi_norm = tl.sqrt(b_own_weight)
            b_norm = tl.load(p_norm + i_slot)
            b_noise = ROUNDING * b_phi_norm * b_norm
            m_noise = tl.abs(b_normalizer) <= b_noise
            b_divisor = tl.where(m_noise, float("inf"), b_divisor)
        b_sum = b_sum / b_divisor[:, None]
        # All programs of a tile of tokens have the same divisors.
        if i_v == 0:
            tl.store(p_divisor + i_n * T + o_t, b_divisor, mask=o_t < T)

    m_out = (o_t < T)[:, None] & (o_v < V)[None, :]
    p_tile = p_out + (i_n * T + o_t)[:, None] * V + o_v[None, :]
    tl.store(p_tile, b_sum.to(p_out.dtype.element_ty), mask=m_out)
