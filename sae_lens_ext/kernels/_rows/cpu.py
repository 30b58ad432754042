"""``_rows`` on a CPU.

All of it is memory traffic, not arithmetic, so each sum goes to the torch routine that
reads every chosen row once: ``embedding_bag`` and its derivative with respect to its
weights. Gathering rows into chunks of the cache's size, or ``index_add_``, takes
several times as long.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def weighted_row_sum(
    values: Tensor,
    indices: Tensor,
    table: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """See ``Rows.weighted_row_sum``."""
    sums = embedding_bag(
        indices,
        table,
        mode="sum",
        per_sample_weights=values,
    )
    if bias is None:
        return sums
    return sums.add_(bias)


def row_dots(rows: Tensor, indices: Tensor, table: Tensor) -> Tensor:
    """See ``Rows.row_dots``."""
    n, k = indices.shape
    flat_indices = indices.reshape(-1)

    # Every token is a bag of k entries.
    offsets = torch.arange(0, n * k, k)
    bags = torch.arange(n).repeat_interleave(k)

    # Autograd calls this for the weights of an embedding_bag. It is called directly
    # here because an operator runs below autograd.
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        rows,
        table,
        flat_indices,
        offsets,
        bags,
        mode=0,
    )
    return dots.view(n, k)


def scatter_row_sum(
    values: Tensor,
    indices: Tensor,
    rows: Tensor,
    n_rows: int,
) -> Tensor:
    """See ``Rows.scatter_row_sum``.

    Sorting the N*K entries by feature turns the scatter into the same gather as above,
    without races and in a fixed order.
    """
    # Integers of 32 bits are sorted in half the time.
    index_dtype = torch.int32 if n_rows < 1 << 31 else torch.int64
    features = indices.reshape(-1).to(index_dtype)
    # Stable, so that the entries of a feature stay in the order of their tokens.
    order = torch.argsort(features, stable=True)

    # The bag of a feature is the tokens that chose it.
    k = indices.shape[1]
    tokens = order.div(k, rounding_mode="floor")
    weights = values.reshape(-1)[order]
    counts = torch.bincount(features, minlength=n_rows)
    offsets = counts.cumsum(0) - counts
    return embedding_bag(
        tokens,
        rows,
        offsets,
        mode="sum",
        per_sample_weights=weights,
    )


def scatter_sum(values: Tensor, indices: Tensor, n: int) -> Tensor:
    """See ``Rows.scatter_sum``."""
    # In half precision, index_add_ would stop growing at a few hundred.
    dtype = torch.promote_types(torch.float32, values.dtype)
    sums = torch.zeros(n, dtype=dtype)
    flat_indices = indices.reshape(-1)
    flat_values = values.reshape(-1).to(dtype)
    return sums.index_add_(0, flat_indices, flat_values).to(values.dtype)
