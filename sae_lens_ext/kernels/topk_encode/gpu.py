"""``topk_encode`` on a GPU.

The product runs on pieces of the dictionary, and a Triton program selects the largest
of each piece. Memory does not grow with the dictionary: a piece's largest are merged
with those before it. Every pre-activation becomes one 64-bit integer that orders first
by value and then by feature, so equal values come out by feature, in the same order
every time.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.topk_encode import gate, operator

# Pre-activations that are held at once, in elements: a quarter of a gigabyte in half
# precision.
_PIECE_ELEMENTS = 1 << 27
# Columns that one program selects from, in registers: 16 for each of its threads.
_COLUMNS = 4096
_WARPS = 8


def topk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int | None,
    centre: Tensor | None = None,
    threshold: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Same as in ``reference``."""
    return operator.run("topk_encode_gpu", x, W_enc, b_enc, centre, threshold, k)


def _encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    floor: Tensor | None,
    k: int | None,
) -> tuple[Tensor, Tensor]:
    n = x.shape[0]

    # As many tokens as fit with one program's columns, because each piece of W_enc is
    # read once per piece of tokens; and as many columns as fit then.
    n_rows_that_fit = _PIECE_ELEMENTS // _COLUMNS
    n_rows = max(1, min(n, n_rows_that_fit))
    n_programs = _PIECE_ELEMENTS // (n_rows * _COLUMNS)
    n_columns = _COLUMNS * max(1, n_programs)

    pieces = []
    for start in range(0, n, n_rows):
        piece_x = x[start : start + n_rows]
        best = _best(piece_x, W_enc, b_enc, floor, k, n_columns)

        # After the selection, when only k numbers per token are left.
        values, indices = _unpacked(best)
        pieces.append((values.relu_(), indices))
    return gate.joined(pieces, x, k)


def _best(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    floor: Tensor | None,
    k: int | None,
    n_columns: int,
) -> Tensor:
    """The first k of some tokens, or all that are active, packed.

    Args:
        x: [n, d_model], centred.
        W_enc: [d_model, d_sae].
        b_enc: [d_sae].
        floor: [d_sae], or None if k alone decides.
        k: how many; None selects as many as the token with the most needs.
        n_columns: how many features to look at together.
    """
    best = torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
    n_active = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    for first in range(0, W_enc.shape[1], n_columns):
        piece = slice(first, first + n_columns)
        pre = torch.addmm(b_enc[piece], x, W_enc[:, piece])
        piece_floor = None if floor is None else floor[piece]

        if k is not None:
            n_each = k
            limit = k
        else:
            assert piece_floor is not None, "without k there is a floor"
            counts = count_active(pre, piece_floor)
            n_active += counts.sum(dim=1)
            # The GPU is waited for here.
            n_each = max(1, int(counts.max()))
            limit = max(1, int(n_active.max()))
        candidates = largest(pre, n_each, first, piece_floor)

        # The first pieces may hold fewer than k features between them.
        best = torch.cat([best, candidates], dim=1)
        n_best = min(limit, best.shape[1])
        best = torch.topk(best, n_best, dim=1, sorted=True).values
    return best


operator.register("topk_encode_gpu", _encode, gpu_rows)


def largest(pre: Tensor, k: int, first: int, floor: Tensor | None = None) -> Tensor:
    """Select the k largest of each piece of ``_COLUMNS`` columns of ``pre``.

    Args:
        pre: [n, columns].
        k: how many to select per piece.
        first: the feature of the first column.
        floor: [columns]; a number that is not above its floor is 0.

    Returns:
        Packed values and features, in no particular order.
    """
    n, n_columns = pre.shape
    n_pieces = triton.cdiv(n_columns, _COLUMNS)

    # All pieces but the last give as many.
    n_full = n_pieces - 1
    n_each = min(k, _COLUMNS)
    n_rest = n_columns - n_full * _COLUMNS
    n_last = min(k, n_rest)

    width = n_full * n_each + n_last
    out = torch.empty(n, width, dtype=torch.int64, device=pre.device)

    # A grid cannot be empty.
    if n:
        gpu_rows.launch(
            _select,
            (n, n_pieces),
            pre.contiguous(),
            # Never read without a floor, but the program needs some pointer.
            pre if floor is None else floor,
            out,
            C=n_columns,
            OUT=width,
            EACH=n_each,
            FIRST=first,
            GATED=floor is not None,
            BC=_COLUMNS,
            num_warps=_WARPS,
        )
    return out


def count_active(pre: Tensor, floor: Tensor) -> Tensor:
    """How many columns of each piece of ``_COLUMNS`` are above their floor.

    Args:
        pre: [n, columns], n not 0.
        floor: [columns].

    Returns:
        [n, pieces].
    """
    n, n_columns = pre.shape
    n_pieces = triton.cdiv(n_columns, _COLUMNS)
    counts = torch.empty(n, n_pieces, dtype=torch.int64, device=pre.device)
    gpu_rows.launch(
        _count,
        (n, n_pieces),
        pre.contiguous(),
        floor,
        counts,
        C=n_columns,
        PIECES=n_pieces,
        BC=_COLUMNS,
        num_warps=_WARPS,
    )
    return counts


def _unpacked(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Values and features of packed integers."""
    # The upper half is the key. The subtraction that made it of a negative float's bits
    # undoes itself.
    key = packed >> 32
    bits = torch.where(key < 0, -0x80000000 - key, key)
    values = bits.to(torch.int32).view(torch.float32)

    # The lower half counts features down, so that the first of equal values is largest.
    rank_of_feature = packed & 0xFFFFFFFF
    return values, 0xFFFFFFFF - rank_of_feature


@triton.jit
@no_type_check
def _select(
    p_pre,
    p_floor,
    p_out,
    C,
    OUT,
    EACH,
    FIRST,
    GATED: tl.constexpr,
    BC: tl.constexpr,
):
    i_n = tl.program_id(0).to(tl.int64)
    i_piece = tl.program_id(1)
    i_c = i_piece * BC
    o_c = i_c + tl.arange(0, BC)
    m_c = o_c < C

    # [BC]
    p_row = p_pre + i_n * C
    b_pre = tl.load(p_row + o_c, mask=m_c, other=0)
    b_pre = b_pre.to(tl.float32)
    if GATED:
        # In this form NaN stays.
        b_floor = tl.load(p_floor + o_c, mask=m_c, other=0).to(tl.float32)
        b_pre = tl.where(b_pre <= b_floor, 0.0, b_pre)

    # Integers in the order of the floats, with NaN above all of them, as in torch.sort.
    # A negative float is the sign bit and its size; -0.0 gets the key of 0.0.
    b_bits = b_pre.to(tl.int32, bitcast=True)
    b_key = tl.where(b_bits < 0, -0x80000000 - b_bits, b_bits)
    b_key = tl.where(b_pre != b_pre, 0x7FFFFFFF, b_key)
    b_key = tl.where(m_c, b_key, -0x80000000)

    # The last piece can have fewer columns than each of the others gives.
    n_columns = C - i_c
    n_select = tl.minimum(EACH, n_columns)

    # The largest bound that n_select keys reach, bit by bit from the sign on; without
    # any bit it is the smallest integer.
    m_positive = b_key >= 0
    n_reach = tl.sum(m_positive.to(tl.int32))
    b_bound = tl.where(n_reach >= n_select, 0, -0x80000000)
    b_bound = b_bound.to(tl.int32)
    for i_bit in range(0, 31):
        b_try = b_bound + (1 << (30 - i_bit))
        m_reach = b_key >= b_try
        n_reach = tl.sum(m_reach.to(tl.int32))
        b_bound = tl.where(n_reach >= n_select, b_try, b_bound)

    # All keys above the bound, and the first of those that equal it.
    m_above = (b_key > b_bound) & m_c
    m_equal = (b_key == b_bound) & m_c
    n_above = tl.sum(m_above.to(tl.int32))
    n_equal = n_select - n_above
    b_place = tl.cumsum(m_equal.to(tl.int32), 0)
    m_first = m_equal & (b_place <= n_equal)
    m_taken = m_above | m_first

    # Every key that is taken goes to the place that counts those before it.
    b_count = tl.cumsum(m_taken.to(tl.int32), 0)
    o_out = b_count - 1
    p_piece = p_out + i_n * OUT + i_piece * EACH

    # The key above, and below it the feature counted down: of equal values the first
    # feature makes the largest integer.
    b_feature = (FIRST + o_c).to(tl.int64)
    b_upper = b_key.to(tl.int64) << 32
    b_lower = 0xFFFFFFFF - b_feature
    b_packed = b_upper | b_lower
    tl.store(p_piece + o_out, b_packed, mask=m_taken)


@triton.jit
@no_type_check
def _count(p_pre, p_floor, p_counts, C, PIECES, BC: tl.constexpr):
    i_n = tl.program_id(0).to(tl.int64)
    i_piece = tl.program_id(1)
    o_c = i_piece * BC + tl.arange(0, BC)
    m_c = o_c < C

    # [BC]
    b_pre = tl.load(p_pre + i_n * C + o_c, mask=m_c, other=0).to(tl.float32)
    b_floor = tl.load(p_floor + o_c, mask=m_c, other=0).to(tl.float32)

    # NaN is not below, so it counts as active.
    m_below = b_pre <= b_floor
    m_active = m_c & ~m_below
    n_active = tl.sum(m_active.to(tl.int32))
    tl.store(p_counts + i_n * PIECES + i_piece, n_active.to(tl.int64))
