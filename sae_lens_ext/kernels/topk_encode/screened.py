"""The first k of every row by way of a product in bfloat16.

Many processors compute a product in bfloat16 two to four times as fast as one in
float32. It is too coarse to choose features by, but it tells which ones cannot
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

**The distance.** Let m be the mean of the tokens, x - m = x' + r for a token, and w =
w' + s for a feature, where x' and w' are in bfloat16. By the inequality of Cauchy and
Schwarz, (x - m) w and x' w' differ by at most |r| |w| + |x'| |s|. The lengths of the
remainders r and s are computed, which gives half of what the precision of bfloat16
would bound them by. The product is summed in float32, in any order, and its sum rounded
to bfloat16, which adds d_model 2^-23 |x'| |w'| and 2^-8 of the result. What is left, m
w, is a number per feature, which joins the bias. Without the mean, the distance would
be that of the whole length of a token, which in a residual stream is mostly mean.

Where the distance leaves more candidates than a product in float32 is worth, after the
first tokens, there is no result.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_lens_ext.kernels import _threads
from sae_lens_ext.kernels.topk_encode import candidates, groups

# Of a float32 sum: two roundings per product, each of half a unit in the last place.
_SUM_ERROR = 2.0**-23
# Of the difference of two float32 numbers, relative to what is stored.
_DIFFERENCE_ERROR = 2.0**-24
# For the roundings in the computation of the distance itself.
_MARGIN = 1 + 2.0**-10
# Above this, numbers could overflow on the way.
_LARGEST = 2.0**120
# Tokens after which candidates are counted.
_COUNTED = 64


def encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int,
    chunks: list[slice],
    most_candidates: int,
) -> tuple[Tensor, Tensor] | None:
    """The k largest pre-activations of every row and their columns.

    Args:
        x: activations ``[n, d_model]`` in float32.
        W_enc: ``[d_model, d_sae]``, stored column by column.
        b_enc: ``[d_sae]``.
        k: how many to select.
        chunks: the rows whose products are held at once.
        most_candidates: how many exact pre-activations per token pay; more of them, on
            average over the first tokens, end the call.

    Returns:
        Values before ReLU and indices, both ``[n, k]``; None where there are too many
        candidates, or a number is too large, or not finite, so that no distance can be
        proven.
    """
    rows = x.detach().contiguous()
    features = W_enc.detach().T
    bias = b_enc.detach().contiguous().numpy()
    n_threads = torch.get_num_threads()

    # Any vector would do.
    mean = rows.mean(0)
    rounded_rows = _Rounded(rows - mean, n_threads)
    rounded_features = _Rounded(features, n_threads)
    rounded_rows.rests += _DIFFERENCE_ERROR * rounded_rows.lengths
    mean = mean.double().numpy()
    shifted_bias = _products(features, mean, n_threads) + bias
    tiny = _smallest_distance(rounded_rows, rounded_features, mean, shifted_bias)
    if tiny is None:
        return None

    # What every row is screened by, and what the exact dot products are made of.
    sum_error = x.shape[1] * _SUM_ERROR * rounded_features.rounded_lengths
    of_features = (
        features.numpy(),
        bias,
        shifted_bias.astype(np.float32),
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

    def select(of_rows: Any, some: slice) -> int:
        arguments: Any = [array[some] for array in of_rows]
        arguments += [*of_features, tiny, width]
        return candidates.select(*arguments)

    for chunk in chunks:
        part = rounded_rows.rounded[chunk]
        product = buffer[: len(part)]
        torch.mm(part, rounded_features.rounded.T, out=product)
        of_chunk = (_bits(product), *(array[chunk] for array in of_rows))

        n_done = 0
        if chunk is chunks[0]:
            n_done = min(_COUNTED, len(part))
            if select(of_chunk, slice(n_done)) > n_done * most_candidates:
                return None
        rest = [array[n_done:] for array in of_chunk]
        pieces = _threads.pieces(len(part) - n_done, n_threads)

        def select_piece(part: int, rest: Any = rest, pieces: Any = pieces) -> None:
            select(rest, pieces[part])

        _threads.run(select_piece, n_threads)
    return values, indices


def _products(features: Tensor, mean: Any, n_threads: int) -> Any:
    """The dot product of every feature with a vector, in float64."""
    products = np.empty(len(features))
    pieces = _threads.pieces(len(features), n_threads)
    rows = features.numpy()

    def compute(part: int) -> None:
        candidates.products(rows[pieces[part]], mean, products[pieces[part]])

    _threads.run(compute, n_threads)
    return products


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


def _smallest_distance(rows: _Rounded, features: _Rounded, mean: Any, bias: Any) -> Any:
    """What is added to every distance; None where numbers are too large or not finite.

    Such products take numbers that are too small for 0; the products with the mean, and
    adding the bias that they are in, round.
    """
    row = rows.rounded_lengths.max()
    feature = features.rounded_lengths.max()
    length = np.sqrt(np.square(mean).sum())
    whole = row + length
    largest = np.array([whole, feature, whole * feature, np.abs(bias).max()])
    # In this form NaN is too large.
    if not np.all(largest < _LARGEST):
        return None
    d_model = rows.rounded.shape[1]
    smallest = torch.finfo(torch.bfloat16).tiny
    lost = d_model * smallest * (1 + row + feature)
    rounded = np.abs(bias).max() * 2.0**-22
    of_mean = d_model * 2.0**-52 * length * feature
    return np.float32((lost + rounded + of_mean) * _MARGIN)
