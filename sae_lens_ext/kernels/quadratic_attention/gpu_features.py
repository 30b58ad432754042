"""Features inside the Triton programs: computed one kind at a time, and never stored.

A kind is the features of one distance (see ``features.py``), or of degree 0 or 1.

In the names of Triton code ``i_`` is an index, ``o_`` are offsets, ``m_`` a mask,
``p_`` a pointer and ``b_`` a loaded block. T is the number of tokens, D the width of
queries and keys, V that of values and F the number of features; BT, BD and BV are the
sizes of tiles along the first three.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def load_tile(p_x, i_n, o_t, o_d, T, D):
    """Coordinates ``o_d`` of tokens ``o_t`` of a sequence, in float32."""
    m_x = (o_t < T)[:, None] & (o_d < D)[None, :]
    p_tile = p_x + (i_n * T + o_t)[:, None] * D + o_d[None, :]
    # [BT, BD]
    b_x = tl.load(p_tile, mask=m_x, other=0)
    return b_x.to(tl.float32)


@triton.jit
@no_type_check
def rows_of_kind(i_kind, D, C0: tl.constexpr, C1: tl.constexpr):
    """The first row of a state that belongs to a kind of features, and their number.

    The kinds are degree 0, degree 1, and then every distance.
    """
    i_distance = i_kind - (C0 != 0) - (C1 != 0)
    i_row = (C0 != 0) + (C1 != 0) * D + i_distance * D
    n_rows = tl.where(2 * i_distance == D, D // 2, D)
    i_row = tl.where(i_distance < 0, tl.where(i_kind == 0, 0, 1), i_row)
    n_rows = tl.where(i_distance < 0, tl.where((C0 != 0) & (i_kind == 0), 1, D), n_rows)
    return i_row, n_rows


@triton.jit
@no_type_check
def features_of_kind(
    p_x,
    i_n,
    o_t,
    o_d,
    i_kind,
    T,
    D,
    C0: tl.constexpr,
    C1: tl.constexpr,
    W0,
    W1,
    W_SQUARE,
    W_PAIR,
):
    """The features of one kind of some tokens, [BT, BD]."""
    i_distance = i_kind - (C0 != 0) - (C1 != 0)
    o_shifted = (o_d + tl.maximum(i_distance, 0)) % D
    # [BT, BD]
    b_x = load_tile(p_x, i_n, o_t, o_d, T, D)
    b_shifted = load_tile(p_x, i_n, o_t, o_shifted, T, D)

    b_phi = b_x * b_shifted * tl.where(i_distance == 0, W_SQUARE, W_PAIR)
    if C1 != 0:
        b_phi = tl.where(i_distance == -1, b_x * W1, b_phi)
    if C0 != 0:
        b_phi = tl.where(i_kind == 0, W0, b_phi)

    _, n_rows = rows_of_kind(i_kind, D, C0, C1)
    return tl.where((o_t < T)[:, None] & (o_d < n_rows)[None, :], b_phi, 0.0)
