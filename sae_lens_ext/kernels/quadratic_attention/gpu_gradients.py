"""Gradients of queries and of keys by way of their weights, in Triton.

For names in Triton code see ``gpu_features.py``.
"""

from typing import no_type_check

import triton
import triton.language as tl
from torch import Tensor

from sae_lens_ext.kernels.quadratic_attention.gpu_features import load_tile
from sae_lens_ext.kernels.quadratic_attention.gpu_layout import (
    GRAD_WARPS,
    Layout,
    launch,
)
from sae_lens_ext.kernels.quadratic_attention.gpu_states import States, Values


def grad_scores(
    layout: Layout,
    x: Tensor,
    of_x: Values,
    y: Tensor,
    of_y: Values,
    states: States | None,
    out: Tensor,
    *,
    is_reverse: bool,
) -> None:
    """Write to ``out`` the gradient of every x.

    The gradient of the weight of an x and a y is the inner product of their values.

    Args:
        layout: of the programs.
        x: the vectors whose gradients these are.
        of_x: their values.
        y: the vectors that they are weighted with.
        of_y: their values.
        states: sums of the features of ``y`` times their values; None if no state is to
            be read.
        out: [n, pos, d].
        is_reverse: whether every x is weighted with the y from its own position on,
            rather than up to it.
    """
    shape = layout.grad_tiles
    n_blocks = layout.n_blocks(shape)
    # A program takes a pointer in any case, and does not use that of an absent tensor.
    kv, k = states or (x, x)
    launch(
        _grad_scores,
        (layout.n * n_blocks,),
        x,
        *of_x,
        y,
        *of_y,
        kv,
        k,
        out,
        *layout.sizes,
        n_blocks,
        is_reverse,
        states is not None,
        *layout.constants,
        *shape,
        num_warps=GRAD_WARPS,
    )


@triton.jit
@no_type_check
def _grad_scores(
    p_x,
    p_x_value,
    p_x_normalizer,
    p_y,
    p_y_value,
    p_y_normalizer,
    p_kv,
    p_k,
    p_out,
    T,
    D,
    V,
    F,
    CHUNK,
    SLOTS,
    BLOCKS,
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
    """See ``grad_scores``; a program per tile of x."""
    i_n = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i_block = tl.program_id(0) % BLOCKS
    o_t = i_block * BT + tl.arange(0, BT)
    o_d = tl.arange(0, BD)
    i_chunk = i_block * BT // CHUNK

    # [BT, BD]
    b_x = load_tile(p_x, i_n, o_t, o_d, T, D)

    # [BT]
    b_x_normalizer = tl.load(p_x_normalizer + i_n * T + o_t, mask=o_t < T, other=0)
    b_grad = tl.zeros([BT, BD], tl.float32)

    # Tokens of the same chunk, by their scores.
    if REVERSE:
        i_first = i_block * BT
        i_stop = tl.minimum((i_chunk + 1) * CHUNK, T)
    else:
        i_first = i_chunk * CHUNK
        i_stop = tl.minimum((i_block + 1) * BT, T)
    for i_y in range(i_first, i_stop, BT):
        o_y = i_y + tl.arange(0, BT)

        # [BT, BD]
        b_y = load_tile(p_y, i_n, o_y, o_d, T, D)

        # [BT, BT], as the gradients of scores and weights
        b_scores = tl.dot(b_x, tl.trans(b_y), input_precision=PRECISION) * SCALE

        # [BT]
        b_y_normalizer = tl.load(p_y_normalizer + i_n * T + o_y, mask=o_y < T, other=0)
        b_grad_weights = b_x_normalizer[:, None] * b_y_normalizer[None, :]
        for i_v in range(0, V, BV):
            o_v = i_v + tl.arange(0, BV)

            # [BT, BV]
            b_x_value = load_tile(p_x_value, i_n, o_t, o_v, T, V)
            b_y_value = load_tile(p_y_value, i_n, o_y, o_v, T, V)
            b_grad_weights += tl.dot(
                b_x_value, tl.trans(b_y_value), input_precision=PRECISION
            )

        if REVERSE:
            m_pair = o_y[None, :] >= o_t[:, None]
        else:
            m_pair = o_y[None, :] <= o_t[:, None]
        b_grad_scores = b_grad_weights * (C1 + 2 * C2 * b_scores) * SCALE
        b_grad_scores = tl.where(m_pair, b_grad_scores, 0.0)
        b_grad += tl.dot(b_grad_scores, b_y, input_precision=PRECISION)

    # Tokens of other chunks, by the state.
    if HAS_STATE:
        i_slot = i_n * SLOTS + i_chunk + (1 if REVERSE else 0)
        b_grad = _add_grad_by_state(
            b_grad,
            p_x,
            p_x_value,
            b_x_normalizer,
            p_kv + i_slot * F * V,
            p_k + i_slot * F,
            i_n,
            o_t,
            o_d,
            T,
            D,
            V,
            C0,
            C1,
            C2,
            W1,
            W_SQUARE,
            W_PAIR,
            PRECISION,
            BT,
            BD,
            BV,
        )

    m_out = (o_t < T)[:, None] & (o_d < D)[None, :]
    p_tile = p_out + (i_n * T + o_t)[:, None] * D + o_d[None, :]
    tl.store(p_tile, b_grad.to(p_out.dtype.element_ty), mask=m_out)


@triton.jit
@no_type_check
def _add_grad_by_state(
    b_grad,
    p_x,
    p_value,
    b_normalizer,
    p_kv,
    p_k,
    i_n,
    o_t,
    o_d,
    T,
    D,
    V,
    C0: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    W1: tl.constexpr,
    W_SQUARE: tl.constexpr,
    W_PAIR: tl.constexpr,
    PRECISION: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BV: tl.constexpr,
):
    """Add to the gradient of x that by way of the state in one slot, [BT, BD]."""
    # Degree 0 has no gradient.
    if C1 != 0:
        o_row = (C0 != 0) + o_d
        b_grad_phi = _grad_features(
            p_value,
            b_normalizer,
            p_kv,
            p_k,
            i_n,
            o_t,
            o_d,
            o_row,
            T,
            D,
            V,
            PRECISION,
            BT,
            BD,
            BV,
        )
        b_grad += b_grad_phi * W1

    if C2 != 0:
        # Every coordinate with every other one, each pair from both sides.
        for i_shift in range(0, D):
            o_other = (o_d + i_shift) % D
            # The row of a pair is that of its first coordinate; at half of D, where
            # either could be the first, it is that of the smaller one.
            i_distance = tl.minimum(i_shift, D - i_shift)
            o_smaller = tl.minimum(o_d, o_other)
            o_first = tl.where(2 * i_shift == D, o_smaller, o_other)
            o_first = tl.where(2 * i_shift < D, o_d, o_first)
            o_row = (C0 != 0) + (C1 != 0) * D + i_distance * D + o_first
            b_grad_phi = _grad_features(
                p_value,
                b_normalizer,
                p_kv,
                p_k,
                i_n,
                o_t,
                o_d,
                o_row,
                T,
                D,
                V,
                PRECISION,
                BT,
                BD,
                BV,
            )

            # [BT, BD]
            b_other = load_tile(p_x, i_n, o_t, o_other, T, D)

            # The two sides of a square are the same.
            factor = tl.where(i_shift == 0, 2 * W_SQUARE, W_PAIR)
            b_grad += b_grad_phi * b_other * factor
    return b_grad


@triton.jit
@no_type_check
def _grad_features(
    p_value,
    b_normalizer,
    p_kv,
    p_k,
    i_n,
    o_t,
    o_d,
    o_row,
    T,
    D,
    V,
    PRECISION: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BV: tl.constexpr,
):
    """The gradient of the features in rows ``o_row`` of a state, [BT, BD]."""
    # [BD]
    b_k = tl.load(p_k + o_row, mask=o_d < D, other=0)
    b_phi = b_normalizer[:, None] * b_k[None, :]
    for i_v in range(0, V, BV):
        o_v = i_v + tl.arange(0, BV)
        m_kv = (o_d < D)[:, None] & (o_v < V)[None, :]
        p_block = p_kv + o_row[:, None] * V + o_v[None, :]

        # [BD, BV]
        b_kv = tl.load(p_block, mask=m_kv, other=0)

        # [BT, BV]
        b_value = load_tile(p_value, i_n, o_t, o_v, T, V)
        b_phi += tl.dot(b_value, tl.trans(b_kv), input_precision=PRECISION)
    return b_phi
