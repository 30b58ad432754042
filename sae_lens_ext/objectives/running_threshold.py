"""The threshold that a BatchTopK SAE uses once it is trained."""

import math

import torch

from sae_lens_ext.objectives.whole_batch import WholeBatch
from sae_lens_ext.sae import SAE, SparseCode


class RunningThreshold:
    """A running mean of the smallest activation that a batch keeps.

    Attributes:
        decay: share of the mean that stays in an update, after many updates.
        n_updates: updates so far.
        batch: the batch that the codes belong to.
    """

    def __init__(self, decay: float) -> None:
        """Start before the first batch."""
        self.decay = decay
        self.n_updates = 0
        self.batch = WholeBatch()

    @torch.no_grad()
    def update(self, sae: SAE, code: SparseCode) -> None:
        """Move the thresholds of all features towards the smallest of a batch."""
        threshold = sae.threshold
        assert threshold is not None, "an SAE of kind batchtopk has one"
        smallest = torch.where(code.values > 0, code.values, math.inf).min()
        smallest = self.batch.smallest(smallest)

        # Early batches, of weights that change fast, are forgotten fast: the first is
        # taken as it is, and the full decay is reached after about 10 / (1 - decay).
        n = self.n_updates
        decay = min(self.decay, n / (n + 9)) if n else 0.0
        moved = torch.lerp(smallest.to(threshold.dtype), threshold, decay)
        # A batch without any activation says nothing.
        threshold.copy_(torch.where(smallest.isfinite(), moved, threshold))
        self.n_updates += 1
