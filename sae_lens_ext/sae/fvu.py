"""The fraction of variance unexplained, accumulated over batches."""

from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.errors import ShapeMismatch


class FVU:
    """Squared error over squared distance from the mean of each coordinate.

    0 is perfect; 1 is what the mean alone reaches.

    >>> import torch
    >>> fvu = FVU()
    >>> x = torch.tensor([[1.0, 10.0], [3.0, 10.0]])
    >>> fvu.update(x, torch.tensor([[2.0, 10.0], [3.0, 10.0]]))
    >>> fvu.value()
    0.5

    The mean is taken per coordinate over everything passed to ``update``. Coordinates
    of a residual stream differ in their means by orders of magnitude, so one mean over
    all of them would make any reconstruction look good.
    """

    def __init__(self) -> None:
        """Start without any activation."""
        self._count = 0
        self._mean: Tensor | None = None
        self._squared_distance = 0.0
        self._squared_error = 0.0

    def update(
        self, x: Float[Tensor, "*batch d_model"], x_hat: Float[Tensor, "*batch d_model"]
    ) -> None:
        """Add activations and their reconstructions.

        Raises:
            ShapeMismatch: the two shapes differ.
        """
        if x.shape != x_hat.shape:
            raise ShapeMismatch(
                "activations and reconstructions must have one shape; got "
                f"{list(x.shape)} and {list(x_hat.shape)}"
            )
        # In float64, because the squares of large activations are summed.
        x = x.detach().flatten(0, -2).double()
        x_hat = x_hat.detach().flatten(0, -2).double()
        count = x.shape[0]
        if count == 0:
            return

        squared_error = (x - x_hat).square().sum()
        self._squared_error += squared_error.item()

        mean = x.mean(0)
        squared_distance = (x - mean).square().sum()
        self._squared_distance += squared_distance.item()
        if self._mean is None:
            self._mean = mean
        else:
            # Chan et al. 1983: the exact merge of two means and sums of squares,
            # without a difference of large numbers.
            between = mean - self._mean
            total = self._count + count
            squared_between = between.square().sum().item()
            self._squared_distance += squared_between * self._count * count / total

            share = count / total
            self._mean = self._mean + between * share
        self._count += count

    def value(self) -> float:
        """The fraction so far; NaN while no two different activations were seen."""
        if self._squared_distance > 0:
            return self._squared_error / self._squared_distance
        return float("nan")
