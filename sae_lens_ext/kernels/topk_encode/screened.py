"""The first k of every row by way of a product in bfloat16.

A processor with matrix units computes a product in bfloat16 several times as fast as
one in float32. It is too coarse to choose features by, but it tells which ones cannot
be among the first k:

1. The exact number of every column is within a proven distance of the product, so it
   has an upper end. At least k columns reach the k-th largest upper end (of groups, as
   in ``compiled.py``), and those are at most twice the distance below it.
2. Columns whose upper end reaches that bound are candidates. The exact pre-activations
   of the k with the highest ends are computed; the smallest of them is a closer bound.
3. So are those of the candidates that reach the closer bound. All that have been
   computed are sorted: by pre-activation, then by column.

A pre-activation here is the dot product of float32 numbers, summed in float64 and
rounded once. So values and order are those of the exact numbers, and depend neither on
the batch that a token is part of nor on the number of threads.

**The distance.** Let a token be x = x' + r and a feature w = w' + s, where x' and w'
are in bfloat16. By the inequality of Cauchy and Schwarz, x w and x' w' differ by at
most |r| |w| + |x'| |s|. The lengths of the remainders r and s are computed, which gives
half of what the precision of bfloat16 would bound them by. The product is summed in
float32, in any order, and its sum rounded to bfloat16, which adds d_model 2^-23 |x'|
|w'| and 2^-8 of the result.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_lens_ext.kernels import _threads
from sae_lens_ext.kernels.topk_encode import candidates, groups

# Of a float32 sum: two roundings per product, each of half a unit in the last place.
_SUM_ERROR = 2.0**-23
# For the roundings in the computation of the distance itself.
_MARGIN = 1 + 2.0**-10
# Above this, numbers could overflow on the way.
_LARGEST = 2.0**120


def encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, chunks: list[slice]
) -> tuple[Tensor, Tensor] | None:
    """The k largest pre-activations of every row and their columns.

    Args:
        x: centred activations ``[n, d_model]`` in float32.
        W_enc: ``[d_model, d_sae]``, stored column by column.
        b_enc: ``[d_sae]``.
        k: how many to select.
        chunks: the rows whose products are held at once.

    Returns:
        Values before ReLU and indices, both ``[n, k]``; None where a number is too
        large, or not finite, so that no distance can be proven.
    """
    rows = x.detach().contiguous()
    features = W_enc.detach().T
    bias = b_enc.detach().contiguous().numpy()
    n_threads = torch.get_num_threads()

    rounded_rows = _Rounded(rows, n_threads)
    rounded_features = _Rounded(features, n_threads)
    tiny = _smallest_distance(rounded_rows, rounded_features, bias)
    if tiny is None:
        return None

    # What every row is screened by, and what the exact dot products are made of.
    sum_error = x.shape[1] * _SUM_ERROR * rounded_features.rounded_lengths
    of_features = (
        features.numpy(),
        bias,
        _enlarged(rounded_features.lengths),
        _enlarged(rounded_features.rests + sum_error),
    )
    values = torch.empty(len(x), k)
    indices = torch.empty(len(x), k, dtype=torch.int64)
    of_rows = (
        rows.numpy(),
        _enlarged(rounded_rows.rounded_lengths),
        _enlarged(rounded_rows.rests),
        values.numpy(),
        indices.numpy(),
    )
    width = groups.width(k)
    most = max(chunk.stop - chunk.start for chunk in chunks)
    buffer = torch.empty(most, len(features), dtype=torch.bfloat16)

    for chunk in chunks:
        part = rounded_rows.rounded[chunk]
        product = buffer[: len(part)]
        torch.mm(part, rounded_features.rounded.T, out=product)
        of_chunk = (_bits(product), *(array[chunk] for array in of_rows))
        pieces = _threads.pieces(len(part), n_threads)

        def select(part: int, arrays: Any = of_chunk, pieces: Any = pieces) -> None:
            arguments: Any = [array[pieces[part]] for array in arrays]
            arguments += [*of_features, tiny, width]
            candidates.select(*arguments)

        _threads.run(select, n_threads)
    return values, indices


class _Rounded:
    """Rows in bfloat16, with the lengths of rows and of what rounding takes away."""

    def __init__(self, rows: Tensor, n_threads: int) -> None:
        self.rounded = rows.to(torch.bfloat16)
        self.lengths = np.empty(len(rows))
        self.rests = np.empty(len(rows))
        arrays = (rows.numpy(), _bits(self.rounded), self.lengths, self.rests)
        pieces = _threads.pieces(len(rows), n_threads)

        def measure(part: int) -> None:
            candidates.measure(*(array[pieces[part]] for array in arrays))

        _threads.run(measure, n_threads)
        # At most, by the triangle inequality.
        self.rounded_lengths = self.lengths + self.rests


def _bits(numbers: Tensor) -> Any:
    """Numbers in bfloat16, which numpy lacks, as the integers that hold them."""
    return numbers.view(torch.int16).numpy()


def _enlarged(numbers: Any) -> Any:
    return (numbers * _MARGIN).astype(np.float32)


def _smallest_distance(rows: _Rounded, features: _Rounded, bias: Any) -> Any:
    """What is added to every distance; None where numbers are too large or not finite.

    Matrix units take numbers that are too small for 0, and adding the bias rounds.
    """
    row = rows.rounded_lengths.max()
    feature = features.rounded_lengths.max()
    largest = np.array([row, feature, row * feature, np.abs(bias).max()])
    # In this form NaN is too large.
    if not np.all(largest < _LARGEST):
        return None
    d_model = rows.rounded.shape[1]
    smallest = torch.finfo(torch.bfloat16).tiny
    lost = d_model * smallest * (1 + row + feature)
    rounded = np.abs(bias).max() * 2.0**-22
    return np.float32((lost + rounded) * _MARGIN)
