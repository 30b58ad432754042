"""Outliers, and the constants that normalise activations."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, NonFinite

# In medians of the norm; see ``Activations.outliers_clipped``.
_LARGEST_NORM = 6.0
# A float64 copy of all activations would be twice their size, so sums take this many
# tokens at a time.
_TOKENS_PER_SUM = 1 << 14


def largest_norm(values: Float[Tensor, "token d_model"]) -> Float[Tensor, ""]:
    """The norm that outliers are shrunk to: 6 times the median of these tokens.

    Rows of zeros say nothing about the usual norm and do not count; 0 if all are.
    """
    norms = torch.cat([_norms(part) for part in values.split(_TOKENS_PER_SUM)])
    nonzero_norms = norms[norms > 0]
    if not len(nonzero_norms):
        return norms.new_zeros(())
    return _LARGEST_NORM * nonzero_norms.median()


def shrink_outliers(
    values: Float[Tensor, "token d_model"], limit: Float[Tensor, ""]
) -> tuple[Float[Tensor, "token d_model"], Int[Tensor, ""]]:
    """Shrink every token whose norm exceeds ``limit`` to that norm.

    Returns:
        The tokens, in their dtype, and how many were shrunk.
    """
    norms = _norms(values)
    # Rounding leaves shrunk tokens a little above the limit; shrunk again, they are not
    # counted again.
    is_outlier = norms > limit * (1 + torch.finfo(values.dtype).eps)
    n_outliers = is_outlier.sum()
    # Most often there are none. A GPU would have to be waited for to know.
    if values.device.type == "cpu" and not n_outliers:
        return values, n_outliers
    factors = torch.where(is_outlier, limit / norms, 1)
    return (values * factors).to(values.dtype), n_outliers


def mean_and_scale(
    values: Float[Tensor, "token d_model"],
    change: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, ""]]:
    """The constants that normalise activations before training.

    Args:
        values: the activations.
        change: what is done to them first, to some tokens at a time.

    Returns:
        The mean of each coordinate, and the factor that gives the centred activations a
        mean square of 1 per coordinate.

    Raises:
        NonFinite: the activations contain NaN or infinity.
        InvalidArgument: all activations are equal.
    """

    def parts() -> Iterator[Tensor]:
        for part in values.split(_TOKENS_PER_SUM):
            yield (part if change is None else change(part)).double()

    n_tokens = torch.tensor(float(len(values)))
    n_values = torch.tensor(float(values.numel()))
    mean = sum(part.sum(0) for part in parts()) / n_tokens
    squares = sum((part - mean).square().sum() for part in parts())
    mean_square = squares / n_values

    # One number tells of all: NaN and infinity spread to the sum.
    if not torch.isfinite(mean_square):
        raise NonFinite(
            "the activations hold NaN or infinity; collect them again, or look at "
            "the model that made them"
        )

    if not mean_square > 0:
        raise InvalidArgument(
            f"the {len(values)} activations are all alike, so there is "
            "nothing to learn from them"
        )
    return mean.float(), mean_square.rsqrt().float()


def check_finite(site: str, values: Float[Tensor, "token d_model"]) -> None:
    """Check that no activation is NaN or infinite.

    Raises:
        NonFinite: one is; the message names the site.
    """
    # One number tells of all, and takes a tenth of the time: NaN and infinity spread to
    # the sum. It may exceed float32 without them, so that is not the last word. In
    # parts, because torch sums a copy of the dtype of the sum.
    sums = [part.sum(dtype=torch.float32) for part in values.split(_TOKENS_PER_SUM)]
    if torch.isfinite(torch.stack(sums)).all():
        return
    n_nonfinite = int((~torch.isfinite(values)).sum())
    if n_nonfinite:
        raise NonFinite(
            f"{n_nonfinite} of {values.numel()} numbers at {site} are NaN or "
            "infinite; check the model's weights and dtype"
        )


def _norms(values: Float[Tensor, "token d_model"]) -> Float[Tensor, "token 1"]:
    return values.float().norm(dim=1, keepdim=True)
