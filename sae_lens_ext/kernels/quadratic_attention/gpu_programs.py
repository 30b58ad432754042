"""The Triton programs of ``gpu.py``, which launches them.

Features are made one distance at a time (see ``features.py``) and never kept; those of one distance, or of one degree below 2, are a kind.
States lie in slots: the one before chunk i is in slot i, the gradient of the one after it in slot i + 1.

In the names ``i_`` is an index, ``o_`` are offsets, ``m_`` a mask, ``p_`` a pointer and ``b_`` a loaded block. T is the number of tokens, D
the width of queries and keys, V that of values, F the number of features.
"""

from typing import no_type_check

import triton
import triton.language as tl

# The rounding of float32, in which all sums are.
ROUNDING = tl.constexpr(2.0**-23)


@triton.jit
@no_type_check
def _tile(p_x, i_n, o_t, o_d, T, D):
    m_x = (o_t < T)[:, None] & (o_d < D)[None, :]
    return tl.load(
        p_x + (i_n * T + o_t)[:, None] * D + o_d[None, :], mask=m_x, other=0
    ).to(tl.float32)


@triton.jit
@no_type_check
def _rows_of(i_kind, D, C0: tl.constexpr, C1: tl.constexpr):
    """Where the features of one kind begin, and how many there are: of degree 0, of degree 1, then a kind for each distance."""
    i_distance = i_kind - (C0 != 0) - (C1 != 0)
    i_row = (C0 != 0) + (C1 != 0) * D + i_distance * D
    n_rows = tl.where(2 * i_distance == D, D // 2, D)
    i_row = tl.where(i_distance < 0, tl.where(i_kind == 0, 0, 1), i_row)
    n_rows = tl.where(i_distance < 0, tl.where((C0 != 0) & (i_kind == 0), 1, D), n_rows)
    return i_row, n_rows


@triton.jit
@no_type_check
def _phi(
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
    i_distance = i_kind - (C0 != 0) - (C1 != 0)
    o_shifted = (o_d + tl.maximum(i_distance, 0)) % D
    b_x = _tile(p_x, i_n, o_t, o_d, T, D)
    b_phi = (
        b_x
        * _tile(p_x, i_n, o_t, o_shifted, T, D)
        * tl.where(i_distance == 0, W_SQUARE, W_PAIR)
    )
    if C1 != 0:
        b_phi = tl.where(i_distance == -1, b_x * W1, b_phi)
    if C0 != 0:
        b_phi = tl.where(i_kind == 0, W0, b_phi)
    _, n_rows = _rows_of(i_kind, D, C0, C1)
    return tl.where((o_t < T)[:, None] & (o_d < n_rows)[None, :], b_phi, 0.0)


@triton.jit
@no_type_check
def sum_values(
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
    """For every x the sum of the values of all y before it, or after it, weighted; divided by the sum of the weights if before."""
    i_n = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i_block = tl.program_id(0) % BLOCKS
    i_v = tl.program_id(1)
    o_t = i_block * BT + tl.arange(0, BT)
    o_d = tl.arange(0, BD)
    o_v = i_v * BV + tl.arange(0, BV)
    i_chunk = i_block * BT // CHUNK
    b_x = _tile(p_x, i_n, o_t, o_d, T, D)
    b_sum = tl.zeros([BT, BV], tl.float32)
    b_normalizer = tl.zeros([BT], tl.float32)
    i_first = i_block * BT if REVERSE else i_chunk * CHUNK
    i_stop = (
        tl.minimum((i_chunk + 1) * CHUNK, T)
        if REVERSE
        else tl.minimum((i_block + 1) * BT, T)
    )
    # Where a product is made of six, there are no registers left to load ahead.
    for i_y in tl.range(
        i_first, i_stop, BT, num_stages=1 if PRECISION == "bf16x6" else None
    ):
        o_y = i_y + tl.arange(0, BT)
        b_scores = (
            tl.dot(
                b_x,
                tl.trans(_tile(p_y, i_n, o_y, o_d, T, D)),
                input_precision=PRECISION,
            )
            * SCALE
        )
        m_pair = (
            o_y[None, :] >= o_t[:, None] if REVERSE else o_y[None, :] <= o_t[:, None]
        )
        b_weights = tl.where(
            m_pair & (o_y < T)[None, :], C0 + b_scores * (C1 + C2 * b_scores), 0.0
        )
        b_sum += tl.dot(
            b_weights, _tile(p_value, i_n, o_y, o_v, T, V), input_precision=PRECISION
        )
        b_normalizer += tl.sum(b_weights, 1)
    if HAS_STATE:
        i_slot = i_n * SLOTS + i_chunk + (1 if REVERSE else 0)
        p_slot_kv, p_slot_k = p_kv + i_slot * F * V, p_k + i_slot * F
        for i_kind in range(0, KINDS):
            b_phi = _phi(
                p_x, i_n, o_t, o_d, i_kind, T, D, C0, C1, W0, W1, W_SQUARE, W_PAIR
            )
            i_row, n_rows = _rows_of(i_kind, D, C0, C1)
            o_row = i_row + o_d
            m_kv = (o_d < n_rows)[:, None] & (o_v < V)[None, :]
            b_kv = tl.load(
                p_slot_kv + o_row[:, None] * V + o_v[None, :], mask=m_kv, other=0
            )
            b_sum += tl.dot(b_phi, b_kv, input_precision=PRECISION)
            if not REVERSE:
                b_k = tl.load(p_slot_k + o_row, mask=o_d < n_rows, other=0)
                b_normalizer += tl.sum(b_phi * b_k[None, :], 1)
    if not REVERSE:
        b_divisor = b_normalizer + eps
        if HAS_STATE:
            b_square = SCALE * tl.sum(b_x * b_x, 1)
            b_noise = (
                ROUNDING
                * tl.sqrt(C0 + b_square * (C1 + C2 * b_square))
                * tl.load(p_norm + i_slot)
            )
            b_divisor = tl.where(
                tl.abs(b_normalizer) <= b_noise, float("inf"), b_divisor
            )
        b_sum = b_sum / b_divisor[:, None]
        if i_v == 0:
            tl.store(p_divisor + i_n * T + o_t, b_divisor, mask=o_t < T)
    m_out = (o_t < T)[:, None] & (o_v < V)[None, :]
    tl.store(
        p_out + (i_n * T + o_t)[:, None] * V + o_v[None, :],
        b_sum.to(p_out.dtype.element_ty),
        mask=m_out,
    )


@triton.jit
@no_type_check
def grad_scores(
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
    """The gradient of every x by way of its weights with all y before it, or after it."""
    i_n = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i_block = tl.program_id(0) % BLOCKS
    o_t = i_block * BT + tl.arange(0, BT)
    o_d = tl.arange(0, BD)
    i_chunk = i_block * BT // CHUNK
    b_x = _tile(p_x, i_n, o_t, o_d, T, D)
    b_x_normalizer = tl.load(p_x_normalizer + i_n * T + o_t, mask=o_t < T, other=0)
    b_grad = tl.zeros([BT, BD], tl.float32)
    i_first = i_block * BT if REVERSE else i_chunk * CHUNK
    i_stop = (
        tl.minimum((i_chunk + 1) * CHUNK, T)
        if REVERSE
        else tl.minimum((i_block + 1) * BT, T)
    )
    for i_y in range(i_first, i_stop, BT):
        o_y = i_y + tl.arange(0, BT)
        b_y = _tile(p_y, i_n, o_y, o_d, T, D)
        b_scores = tl.dot(b_x, tl.trans(b_y), input_precision=PRECISION) * SCALE
        b_y_normalizer = tl.load(p_y_normalizer + i_n * T + o_y, mask=o_y < T, other=0)
        b_grad_weights = b_x_normalizer[:, None] * b_y_normalizer[None, :]
        for i_v in range(0, V, BV):
            o_v = i_v + tl.arange(0, BV)
            b_x_value = _tile(p_x_value, i_n, o_t, o_v, T, V)
            b_y_value = _tile(p_y_value, i_n, o_y, o_v, T, V)
            b_grad_weights += tl.dot(
                b_x_value, tl.trans(b_y_value), input_precision=PRECISION
            )
        m_pair = (
            o_y[None, :] >= o_t[:, None] if REVERSE else o_y[None, :] <= o_t[:, None]
        )
        b_grad_scores = tl.where(
            m_pair, b_grad_weights * (C1 + 2 * C2 * b_scores) * SCALE, 0.0
        )
        b_grad += tl.dot(b_grad_scores, b_y, input_precision=PRECISION)
    if HAS_STATE:
        i_slot = i_n * SLOTS + i_chunk + (1 if REVERSE else 0)
        p_slot_kv, p_slot_k = p_kv + i_slot * F * V, p_k + i_slot * F
        if C1 != 0:
            o_row = (C0 != 0) + o_d
            b_phi = _grad_features(
                p_x_value,
                b_x_normalizer,
                p_slot_kv,
                p_slot_k,
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
            b_grad += b_phi * W1
        if C2 != 0:
            # Every coordinate with every other, each pair from both sides.
            for i_shift in range(0, D):
                o_other = (o_d + i_shift) % D
                i_distance = tl.minimum(i_shift, D - i_shift)
                o_first = tl.where(
                    2 * i_shift < D,
                    o_d,
                    tl.where(2 * i_shift == D, tl.minimum(o_d, o_other), o_other),
                )
                o_row = (C0 != 0) + (C1 != 0) * D + i_distance * D + o_first
                b_phi = _grad_features(
                    p_x_value,
                    b_x_normalizer,
                    p_slot_kv,
                    p_slot_k,
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
                b_grad += (
                    b_phi
                    * _tile(p_x, i_n, o_t, o_other, T, D)
                    * tl.where(i_shift == 0, 2 * W_SQUARE, W_PAIR)
                )
    m_out = (o_t < T)[:, None] & (o_d < D)[None, :]
    tl.store(
        p_out + (i_n * T + o_t)[:, None] * D + o_d[None, :],
        b_grad.to(p_out.dtype.element_ty),
        mask=m_out,
    )


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
    """The gradient of the features in some rows of a state, [BT, BD]."""
    b_k = tl.load(p_k + o_row, mask=o_d < D, other=0)
    b_phi = b_normalizer[:, None] * b_k[None, :]
    for i_v in range(0, V, BV):
        o_v = i_v + tl.arange(0, BV)
        b_kv = tl.load(
            p_kv + o_row[:, None] * V + o_v[None, :],
            mask=(o_d < D)[:, None] & (o_v < V)[None, :],
            other=0,
        )
        b_phi += tl.dot(
            _tile(p_value, i_n, o_t, o_v, T, V),
            tl.trans(b_kv),
            input_precision=PRECISION,
        )
    return b_phi


@triton.jit
@no_type_check
def sum_features(
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
    """The sum over a chunk of the features of one kind times what the tokens bring along."""
    i_kind = tl.program_id(1)
    i_v = tl.program_id(2)
    i_n = (tl.program_id(0) // (SLOTS - 1)).to(tl.int64)
    i_chunk = tl.program_id(0) % (SLOTS - 1)
    o_d = tl.arange(0, BD)
    o_v = i_v * BV + tl.arange(0, BV)
    b_kv = tl.zeros([BD, BV], tl.float32)
    b_k = tl.zeros([BD], tl.float32)
    for i_t in range(i_chunk * CHUNK, tl.minimum((i_chunk + 1) * CHUNK, T), BT):
        o_t = i_t + tl.arange(0, BT)
        b_phi = _phi(p_x, i_n, o_t, o_d, i_kind, T, D, C0, C1, W0, W1, W_SQUARE, W_PAIR)
        b_kv += tl.dot(
            tl.trans(b_phi),
            _tile(p_value, i_n, o_t, o_v, T, V),
            input_precision=PRECISION,
        )
        b_normalizer = tl.load(p_normalizer + i_n * T + o_t, mask=o_t < T, other=0)
        b_k += tl.sum(b_phi * b_normalizer[:, None], 0)
    i_row, n_rows = _rows_of(i_kind, D, C0, C1)
    i_slot = i_n * SLOTS + i_chunk + (0 if REVERSE else 1)
    o_row = i_slot * F + i_row + o_d
    m_row = o_d < n_rows
    tl.store(
        p_kv + o_row[:, None] * V + o_v[None, :],
        b_kv,
        mask=m_row[:, None] & (o_v < V)[None, :],
    )
    if i_v == 0:
        tl.store(p_k + o_row, b_k, mask=m_row)


@triton.jit
@no_type_check
def add_up(p_sums, SLOTS, WIDTH, REVERSE: tl.constexpr, BW: tl.constexpr):
    """Every slot and all before it, or all after it, in place."""
    i_n = tl.program_id(0).to(tl.int64)
    o_w = tl.program_id(1) * BW + tl.arange(0, BW)
    m_w = o_w < WIDTH
    b_sum = tl.zeros([BW], tl.float32)
    for i in range(0, SLOTS):
        i_slot = SLOTS - 1 - i if REVERSE else i
        p_slot = p_sums + (i_n * SLOTS + i_slot) * WIDTH + o_w
        b_sum += tl.load(p_slot, mask=m_w, other=0)
        tl.store(p_slot, b_sum, mask=m_w)
