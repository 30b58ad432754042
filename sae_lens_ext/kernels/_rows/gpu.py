"""``_rows`` in Triton.

A program of one warp reads a tile of eight chosen rows at a time, all of it before it
adds anything: the time that a row takes to arrive is hidden by how many are on their
way. Offsets are 64 bits wide, sums are float32, and a feature that does not exist gives
NaN.

In the programs ``i_`` is an index, ``o_`` are offsets, ``m_`` is a mask, ``p_`` a
pointer and ``b_`` a loaded block.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

# Chosen rows that are read at once, and the widest piece of a row.
_ROWS = 8
_WIDTH = 256
# The sum over the entries of one feature can be long, and there are few features: more
# threads, wider pieces.
_SEGMENT_WARPS = 4
_SEGMENT_WIDTH = 1024


def weighted_row_sum(
    values: Tensor,
    indices: Tensor,
    table: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """See ``Rows.weighted_row_sum``."""
    n, k = values.shape
    n_rows, width = table.shape
    out = table.new_empty(n, width)
    if not out.numel():
        return out

    block = tile(width)
    launch(
        _weighted_row_sum,
        (n, triton.cdiv(width, block)),
        values,
        indices,
        table,
        # Never read without a bias, but the program needs some pointer.
        table if bias is None else bias,
        out,
        K=k,
        D=width,
        F=n_rows,
        HAS_BIAS=bias is not None,
        BK=_ROWS,
        BD=block,
        num_warps=1,
    )
    return out


def row_dots(rows: Tensor, indices: Tensor, table: Tensor) -> Tensor:
    """See ``Rows.row_dots``."""
    n, k = indices.shape
    n_rows, width = table.shape
    out = table.new_empty(n, k)
    if not out.numel():
        return out

    launch(
        _row_dots,
        (n, triton.cdiv(k, _ROWS)),
        rows,
        indices,
        table,
        out,
        K=k,
        D=width,
        F=n_rows,
        BK=_ROWS,
        BD=tile(width),
        num_warps=1,
    )
    return out


def scatter_row_sum(
    values: Tensor,
    indices: Tensor,
    rows: Tensor,
    n_rows: int,
) -> Tensor:
    """See ``Rows.scatter_row_sum``.

    Entries are sorted by feature, so that each row is summed by one program, without
    atomics.
    """
    out = rows.new_empty(n_rows, rows.shape[1])
    features, order = torch.sort(indices.reshape(-1), stable=True)
    targets = torch.arange(n_rows, device=rows.device)
    starts, stops = (
        torch.searchsorted(features, targets, right=right) for right in (False, True)
    )
    add_segments(
        out,
        targets,
        starts,
        stops,
        values,
        order,
        rows,
        entries_per_row=indices.shape[1],
        add=False,
    )
    return out


def scatter_sum(values: Tensor, indices: Tensor, n: int) -> Tensor:
    """See ``Rows.scatter_sum``."""
    ones = values.new_ones(len(values), 1)
    return scatter_row_sum(values, indices, ones, n).flatten()


def add_segments(
    out: Tensor,
    targets: Tensor,
    starts: Tensor,
    stops: Tensor,
    values: Tensor,
    order: Tensor,
    rows: Tensor,
    *,
    entries_per_row: int,
    add: bool,
) -> None:
    """Sum segments of entries into rows of ``out``.

    ``out[targets[i]]`` becomes the sum of ``values[e] * rows[e // entries_per_row]``
    over the entries e in ``order[starts[i]:stops[i]]``.

    Args:
        out: [F, D].
        targets: [M], the row of each segment; no row twice among the segments that have
            entries.
        starts: [M], where each segment starts.
        stops: [M], where each segment stops.
        values: one per entry.
        order: entries, segment by segment.
        rows: [N, D].
        entries_per_row: how many entries share a row.
        add: whether to add to the content of ``out`` and skip segments without entries.
    """
    width = out.shape[1]
    if not len(targets) or not width:
        return

    launch(
        _add_segments,
        (len(targets),),
        out,
        targets,
        starts,
        stops,
        values,
        order,
        rows,
        ENTRIES_PER_ROW=entries_per_row,
        D=width,
        ADD=add,
        BE=_ROWS,
        BD=tile(width, _SEGMENT_WIDTH),
        num_warps=_SEGMENT_WARPS,
    )


def launch(
    program: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    num_warps: int,
    **constants: Any,
) -> None:
    """Run a Triton program on the device of its first argument.

    Args:
        program: the program.
        grid: how many of it to run along each axis.
        *arguments: of the program, by position.
        num_warps: warps per program.
        **constants: further arguments of the program, by name.
    """
    # Triton launches on the current device, whatever device the tensors are on. Joining
    # products and sums has to be asked for from Triton 3.9 on.
    with torch.cuda.device_of(arguments[0]):
        program[grid](
            *arguments, **constants, num_warps=num_warps, enable_fp_fusion=True
        )


def tile(width: int, largest: int = _WIDTH) -> int:
    """Width of the pieces in which to work on a row: a power of two from 16 on."""
    return min(largest, max(16, triton.next_power_of_2(width)))


@triton.jit
@no_type_check
def _weighted_row_sum(
    p_values,
    p_indices,
    p_table,
    p_bias,
    p_out,
    K,
    D,
    F,
    HAS_BIAS: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    i_n = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    m_d = o_d < D

    # [BD]
    b_sum = tl.zeros([BD], tl.float32)
    if HAS_BIAS:
        b_sum += tl.load(p_bias + o_d, mask=m_d, other=0).to(tl.float32)

    for i_k in range(0, K, BK):
        o_k = i_k + tl.arange(0, BK)
        m_k = o_k < K

        # [BK]
        b_index = tl.load(p_indices + i_n * K + o_k, mask=m_k, other=0)
        b_value = tl.load(p_values + i_n * K + o_k, mask=m_k, other=0).to(tl.float32)
        m_row = (b_index >= 0) & (b_index < F)
        b_value = tl.where(m_row, b_value, float("nan"))

        # [BK, BD]
        b_rows = tl.load(
            p_table + b_index[:, None] * D + o_d[None, :],
            mask=(m_k & m_row)[:, None] & m_d[None, :],
            other=0,
        )
        b_sum += tl.sum(b_value[:, None] * b_rows.to(tl.float32), axis=0)

    tl.store(p_out + i_n * D + o_d, b_sum.to(p_out.dtype.element_ty), mask=m_d)


@triton.jit
@no_type_check
def _row_dots(
    p_rows,
    p_indices,
    p_table,
    p_out,
    K,
    D,
    F,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    i_n = tl.program_id(0).to(tl.int64)
    o_k = tl.program_id(1) * BK + tl.arange(0, BK)
    m_k = o_k < K

    # [BK]
    b_index = tl.load(p_indices + i_n * K + o_k, mask=m_k, other=0)
    m_row = (b_index >= 0) & (b_index < F)

    # [BK, BD]
    b_products = tl.zeros([BK, BD], tl.float32)
    for i_d in range(0, D, BD):
        o_d = i_d + tl.arange(0, BD)
        m_d = o_d < D

        # [BD]
        b_row = tl.load(p_rows + i_n * D + o_d, mask=m_d, other=0).to(tl.float32)

        # [BK, BD]
        b_chosen = tl.load(
            p_table + b_index[:, None] * D + o_d[None, :],
            mask=(m_k & m_row)[:, None] & m_d[None, :],
            other=0,
        )
        b_products += b_row[None, :] * b_chosen.to(tl.float32)

    b_dots = tl.where(m_row, tl.sum(b_products, axis=1), float("nan"))
    tl.store(p_out + i_n * K + o_k, b_dots.to(p_out.dtype.element_ty), mask=m_k)


@triton.jit
@no_type_check
def _add_segments(
    p_out,
    p_targets,
    p_starts,
    p_stops,
    p_values,
    p_order,
    p_rows,
    ENTRIES_PER_ROW,
    D,
    ADD: tl.constexpr,
    BE: tl.constexpr,
    BD: tl.constexpr,
):
    i_segment = tl.program_id(0)
    i_start = tl.load(p_starts + i_segment)
    i_stop = tl.load(p_stops + i_segment)
    if ADD and i_start == i_stop:
        return

    i_target = tl.load(p_targets + i_segment).to(tl.int64)
    for i_d in range(0, D, BD):
        o_d = i_d + tl.arange(0, BD)
        m_d = o_d < D
        p_row_out = p_out + i_target * D + o_d

        # [BD]
        b_sum = tl.zeros([BD], tl.float32)
        if ADD:
            b_sum += tl.load(p_row_out, mask=m_d, other=0).to(tl.float32)

        for i_entry in range(i_start, i_stop, BE):
            o_entry = i_entry + tl.arange(0, BE)
            m_entry = o_entry < i_stop

            # [BE]
            b_entry = tl.load(p_order + o_entry, mask=m_entry, other=0)
            b_value = tl.load(p_values + b_entry, mask=m_entry, other=0).to(tl.float32)
            b_row = b_entry // ENTRIES_PER_ROW

            # [BE, BD]
            b_rows = tl.load(
                p_rows + b_row[:, None] * D + o_d[None, :],
                mask=m_entry[:, None] & m_d[None, :],
                other=0,
            )
            b_sum += tl.sum(b_value[:, None] * b_rows.to(tl.float32), axis=0)

        tl.store(p_row_out, b_sum.to(p_out.dtype.element_ty), mask=m_d)
