"""A code in which the features of every group of the dictionary have own columns."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def by_group(
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    ends: Sequence[int],
) -> tuple[Float[Tensor, "batch columns"], Int[Tensor, "batch columns"], list[int]]:
    """Move the features of the first group to the front, then those of the second.

    A group has as many columns as the token with most of its features needs, and at
    least one; empty places are zeros. So the columns up to the end of a group hold, for
    every token, the features up to the end of that group.

    >>> values = torch.tensor([[3.0, 2.0], [1.0, 0.0]])
    >>> by_group(values, torch.tensor([[4, 0], [1, 5]]), [2, 6])[0].tolist()
    [[2.0, 3.0], [1.0, 0.0]]

    Args:
        values: activations; zeros are left out.
        indices: their features.
        ends: for every group, the number behind its last feature; rising.

    Returns:
        The new values and indices, and the number of columns up to each group's end.
    """
    is_active = values.detach() != 0
    columns = torch.zeros_like(indices)
    ends_of_columns = []
    start = 0
    width = 0
    for end in ends:
        is_in = is_active & (indices >= start) & (indices < end)
        # The first of a group in a row gets the first column of the group.
        columns = torch.where(is_in, width + is_in.cumsum(dim=1) - 1, columns)
        width += max(1, int(is_in.sum(dim=1).max()))
        ends_of_columns.append(width)
        start = end

    # What is left out goes into one more column, which is cut off.
    columns = torch.where(is_active, columns, width)
    shape = (len(values), width + 1)
    moved_values = values.new_zeros(shape).scatter(1, columns, values)
    moved_indices = indices.new_zeros(shape).scatter(1, columns, indices)
    return moved_values[:, :width], moved_indices[:, :width], ends_of_columns
