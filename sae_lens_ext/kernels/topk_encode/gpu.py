"""``topk_encode`` on a GPU: the product in pieces of the dictionary, and in Triton the selection of the largest of each piece.

Memory does not grow with the dictionary: a piece's largest are merged with those before it. Every pre-activation becomes one 64-bit
number that orders first by its value and then by its feature, so equal values come out by feature, in the same order every time.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.topk_encode import operator

# Pre-activations that are held at once, in elements: a quarter of a gigabyte in half precision.
_PIECE_ELEMENTS = 1 << 27
# Columns that one program selects from, in registers: 16 for each of its threads.
_COLUMNS = 4096
_WARPS = 8


def topk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, centre: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As in ``reference``."""
    return operator.run("topk_encode_gpu", x, W_enc, b_enc, centre, k)


def _encode(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n, d_sae = x.shape[0], W_enc.shape[1]
    rows = max(1, min(n, _PIECE_ELEMENTS // _COLUMNS))
    columns = max(1, _PIECE_ELEMENTS // (rows * _COLUMNS)) * _COLUMNS
    values, indices = (
        x.new_empty(n, k),
        torch.empty(n, k, dtype=torch.int64, device=x.device),
    )
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        best = indices.new_empty(len(x[part]), 0)
        for first in range(0, d_sae, columns):
            piece = slice(first, first + columns)
            found = largest(
                torch.addmm(b_enc[piece], x[part], W_enc[:, piece]), k, first
            )
            best = torch.cat([best, found], dim=1)
            best = torch.topk(best, min(k, best.shape[1]), dim=1, sorted=True).values
        values[part], indices[part] = _unpacked(best)
    return values.relu_(), indices


operator.register("topk_encode_gpu", _encode, gpu_rows)


def largest(pre: Tensor, k: int, first: int) -> Tensor:
    """The k largest of each piece of ``_COLUMNS`` columns of ``pre [n, columns]``, packed, in no order; ``first`` is its first feature."""
    n, n_columns = pre.shape
    pieces = triton.cdiv(n_columns, _COLUMNS)
    # All pieces but the last give as many.
    each, last = min(k, _COLUMNS), min(k, n_columns - (pieces - 1) * _COLUMNS)
    out = torch.empty(
        n, (pieces - 1) * each + last, dtype=torch.int64, device=pre.device
    )
    if n:
        sizes = n_columns, out.shape[1], each, first, _COLUMNS
        gpu_rows.launch(
            _select, (n, pieces), pre.contiguous(), out, *sizes, num_warps=_WARPS
        )
    return out


def _unpacked(packed: Tensor) -> tuple[Tensor, Tensor]:
    key = packed >> 32
    bits = torch.where(key < 0, key ^ 0x7FFFFFFF, key).to(torch.int32)
    return bits.view(torch.float32), 0xFFFFFFFF - (packed & 0xFFFFFFFF)


@triton.jit
@no_type_check
def _select(p_pre, p_out, C, OUT, EACH, FIRST, BC: tl.constexpr):
    i_n = tl.program_id(0).to(tl.int64)
    i_piece = tl.program_id(1)
    o_c = i_piece * BC + tl.arange(0, BC)
    m_c = o_c < C
    b_pre = tl.load(p_pre + i_n * C + o_c, mask=m_c, other=0).to(tl.float32)
    # Whole numbers in the order of the floats, with NaN above all of them, as for torch.topk.
    b_bits = b_pre.to(tl.int32, bitcast=True)
    b_key = tl.where(b_bits < 0, b_bits ^ 0x7FFFFFFF, b_bits)
    b_key = tl.where(b_pre != b_pre, 0x7FFFFFFF, b_key)
    b_key = tl.where(m_c, b_key, -0x80000000)
    n_wanted = tl.minimum(EACH, C - i_piece * BC)

    # The largest bound that n_wanted keys reach, bit by bit; without a bit it is the smallest number there is.
    n_reach = tl.sum((b_key >= 0).to(tl.int32))
    b_bound = tl.where(n_reach >= n_wanted, 0, -0x80000000).to(tl.int32)
    for i_bit in range(0, 31):
        b_try = b_bound + (1 << (30 - i_bit))
        n_reach = tl.sum((b_key >= b_try).to(tl.int32))
        b_bound = tl.where(n_reach >= n_wanted, b_try, b_bound)

    m_above = (b_key > b_bound) & m_c
    m_equal = (b_key == b_bound) & m_c
    n_equal = n_wanted - tl.sum(m_above.to(tl.int32))
    m_taken = m_above | (m_equal & (tl.cumsum(m_equal.to(tl.int32), 0) <= n_equal))
    o_out = tl.cumsum(m_taken.to(tl.int32), 0) - 1
    b_packed = (b_key.to(tl.int64) << 32) | (0xFFFFFFFF - (FIRST + o_c).to(tl.int64))
    tl.store(p_out + i_n * OUT + i_piece * EACH + o_out, b_packed, mask=m_taken)
