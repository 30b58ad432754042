"""The strongest activations of a whole batch, without a dense ``[batch, d_sae]``."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.objectives.encoding import encode
from sae_lens_ext.objectives.whole_batch import WholeBatch
from sae_lens_ext.sae import SAE

# What is encoded lies above this share of the last batch's smallest kept activation:
# that of the next batch is hardly ever below, and little is encoded in vain.
_SHARE = 0.9
# Without a last batch, this many times k features of every token give a first bound.
_CANDIDATES = 4


class BatchSelection:
    """Finds the n * k largest activations of n tokens, whichever token they are on.

    1. Encode everything above a bound that is expected to lie just below the smallest
       activation to keep: a share of the smallest that the last batch kept.
    2. If that gives fewer than n * k, encode a few features of every token; the n * k
       largest of these are a lower bound for certain. Encode everything from there on.
    3. Keep what is not below the (n * k)-th largest; those equal to it stay together.

    The bound of step 1 decides about the time that it takes, never about the result.

    Attributes:
        batch: the batch that the tokens are a share of.
    """

    def __init__(self) -> None:
        """Start without a last batch."""
        self._smallest: float | None = None
        self.batch = WholeBatch()

    def __call__(
        self, sae: SAE, u: Float[Tensor, "batch d_model"], k: int
    ) -> tuple[Float[Tensor, "batch width"], Int[Tensor, "batch width"]]:
        """Values, with a gradient, and indices of the kept activations.

        They are sorted, strongest first, and end in zeros where a token has fewer than
        the one with most of them.
        """
        n_kept = self.batch.total(len(u)) * k
        values, indices = self._from_a_bound_on(sae, u, k, n_kept)
        smallest = self._kth_largest(values, n_kept)
        # NaN is kept, so that it does not vanish.
        is_kept = ~(values < smallest)

        number = smallest.item()
        self._smallest = number if 0 < number < math.inf else None
        # Rows are sorted, so the kept ones are a prefix of each.
        width = max(1, int(is_kept.logical_and(values != 0).sum(dim=1).max()))
        values = torch.where(is_kept, values, 0)[:, :width]
        # The features of zeros would depend on what else was encoded.
        return values, torch.where(values.detach() != 0, indices[:, :width], 0)

    def _from_a_bound_on(
        self, sae: SAE, u: Tensor, k: int, n_kept: int
    ) -> tuple[Tensor, Tensor]:
        """A code that holds the ``n_kept`` largest activations, and others."""
        if self._smallest is not None:
            bound = sae.b_enc.new_tensor(_SHARE * self._smallest)
            values, indices = encode(sae, u, None, bound)
            if self.batch.total(int(values.count_nonzero())) >= n_kept:
                return values, indices

        n_candidates = min(_CANDIDATES * k, sae.config.d_sae)
        with torch.no_grad():
            values, _ = encode(sae, u, n_candidates)
        bound = self._kth_largest(values, n_kept).to(sae.b_enc.dtype)
        # A gate lets pass what is above it, so the next smaller number.
        bound = torch.nextafter(bound, bound.new_tensor(-math.inf))
        return encode(sae, u, None, bound)

    def _kth_largest(self, values: Tensor, k: int) -> Tensor:
        """The k-th largest of all numbers; the smallest if there are fewer."""
        numbers = values.detach().flatten()
        if numbers.dtype in (torch.float16, torch.bfloat16):
            numbers = numbers.float()
        numbers = self.batch.union(numbers)
        place = max(1, numbers.numel() - k + 1)
        return numbers.kthvalue(place).values
