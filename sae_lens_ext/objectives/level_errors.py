"""A running mean of the error at every level, and the weights that follow from it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

# A level whose error is a millionth of the largest does not gain weight any more: one
# that vanishes would outweigh all others.
_SMALLEST_SHARE = 1e-6


class LevelErrors:
    """Running means of the errors, by level.

    Attributes:
        values: [largest level], the mean of level j at j - 1; NaN where there is none.
    """

    def __init__(self, decay: float) -> None:
        """Start without any.

        Args:
            decay: share of a running mean that stays in an update.
        """
        self.decay = decay
        self.values: Float[Tensor, " levels"] = torch.empty(0, dtype=torch.float64)

    def update(self, levels: Sequence[int], errors: Float[Tensor, " levels"]) -> None:
        """Take the errors of a batch into account; the first are taken as they are."""
        n_missing = max(levels) - len(self.values)
        if n_missing > 0:
            missing = self.values.new_full((n_missing,), torch.nan)
            self.values = torch.cat([self.values, missing])

        places = torch.tensor(levels) - 1
        before = self.values[places]
        now = errors.detach().to("cpu", torch.float64)
        mean = self.decay * before + (1 - self.decay) * now
        self.values[places] = torch.where(before.isnan(), now, mean)

    def weights(self, levels: Sequence[int]) -> list[float]:
        """One over the running mean of every level, up to a common factor.

        A level without one weighs as much as the others do on average; all weigh 1
        before the first update.
        """
        known = len(self.values)
        means = torch.tensor(
            [
                self.values[level - 1].item() if level <= known else torch.nan
                for level in levels
            ],
            dtype=torch.float64,
        )
        largest = means.nan_to_num(0).max()
        if largest <= 0:
            return [1.0] * len(levels)

        weights = largest / means.clamp_min(_SMALLEST_SHARE * largest)
        average = weights.nanmean()
        return torch.where(weights.isnan(), average, weights).tolist()
