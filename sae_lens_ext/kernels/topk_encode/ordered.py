"""The first k of every row in torch, in the one order that every backend keeps.

Larger numbers come first, equal numbers by their column, and NaN before all numbers: a
stable descending sort, cut at k. ``torch.topk`` is several times as fast as that sort,
but orders equal numbers as it happens to meet them.

Numbers of 32 or 64 bits are seldom equal: ``torch.topk`` selects, and only the rows in
which the order of equal numbers shows are looked at again. In half precision most rows
have equal numbers, but a number and its column fit into one integer of 32 bits, and no
two of these are equal.
"""

import torch
from torch import Tensor

_HALF = (torch.bfloat16, torch.float16)
# As many as 16 bits tell apart.
_PACKED_COLUMNS = 1 << 16


def first_in_order(
    rows: Tensor, k: int, *, zeros_matter: bool = True
) -> tuple[Tensor, Tensor]:
    """Values and columns of the first k numbers of every row.

    Args:
        rows: [n, columns], contiguous.
        k: from 1 to the number of columns.
        zeros_matter: whether zeros need their columns. Without, those of zeros are any.

    Returns:
        Values and columns, ``[n, k]`` each.
    """
    if rows.dtype in _HALF and rows.shape[1] <= _PACKED_COLUMNS:
        columns = _columns_by_packing(rows, k)
        return rows.gather(1, columns), columns
    return _by_mending_ties(rows, k, zeros_matter=zeros_matter)


def _columns_by_packing(rows: Tensor, k: int) -> Tensor:
    bits = rows.view(torch.int16).int()
    # Integers in the order of the numbers. A negative number is the sign bit and its
    # size; -0.0 gets the key of 0.0.
    keys = torch.where(bits < 0, -0x8000 - bits, bits)
    keys.masked_fill_(rows.isnan(), 0x7FFF)

    # Columns count down, so that the first of equal numbers is the largest integer.
    n_columns = rows.shape[1]
    count_down = torch.arange(n_columns - 1, -1, -1, dtype=torch.int32)
    packed = (keys << 16).add_(count_down)

    largest = torch.topk(packed, k, dim=1, sorted=True).values
    columns = n_columns - 1 - (largest & 0xFFFF)
    return columns.long()


def _by_mending_ties(
    rows: Tensor, k: int, *, zeros_matter: bool
) -> tuple[Tensor, Tensor]:
    # The number after the last one shows whether the cut falls between equal numbers.
    n_shown = min(k + 1, rows.shape[1])
    largest = torch.topk(rows, n_shown, dim=1, sorted=True)
    values = largest.values[:, :k]
    columns = largest.indices[:, :k]

    equals_next = _equal(largest.values[:, :-1], largest.values[:, 1:])
    if not zeros_matter:
        equals_next &= largest.values[:, 1:] != 0
    is_tied = equals_next.any(dim=1)
    if not is_tied.any():
        return values, columns

    # Which of the numbers that equal the last one are in: those of the first columns.
    columns = columns.clone()
    if n_shown > k:
        is_cut = equals_next[:, k - 1]
        last_values = values[is_cut, k - 1 :]
        columns[is_cut] = _columns_up_to(rows[is_cut], last_values, k)

    # The order of those that are in: sorted by column, then stably by value.
    tied_columns = columns[is_tied].sort(dim=1).values
    tied_values = rows[is_tied].gather(1, tied_columns)
    by_value = tied_values.sort(dim=1, descending=True, stable=True)
    columns[is_tied] = tied_columns.gather(1, by_value.indices)
    return rows.gather(1, columns), columns


def _equal(numbers: Tensor, others: Tensor) -> Tensor:
    """Where numbers share a place in the order; NaN equals NaN there."""
    return (numbers == others) | (numbers.isnan() & others.isnan())


def _columns_up_to(rows: Tensor, last: Tensor, k: int) -> Tensor:
    """The columns of the first k numbers of every row, by column.

    Args:
        rows: [n, columns].
        last: [n, 1], the k-th in order.
        k: how many.
    """
    is_before = (rows > last) | (rows.isnan() & ~last.isnan())
    is_equal = _equal(rows, last)

    n_before = is_before.sum(dim=1, keepdim=True)
    n_equal = is_equal.cumsum(dim=1, dtype=torch.int32)
    is_in = is_before | (is_equal & (n_equal <= k - n_before))
    return is_in.nonzero()[:, 1].view(len(rows), k)
