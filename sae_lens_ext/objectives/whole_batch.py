"""A batch that several processes share, as objectives see it.

With its share of a batch, an objective computes means over the tokens that it has, and
the training weighs them by their number: a sum of means over tokens is exact so. An
objective in which tokens depend on each other asks a ``WholeBatch`` for the rest.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


class WholeBatch:
    """The tokens of a step; here those of this process are all there are."""

    def mean(self, mean: Float[Tensor, "*parts"]) -> Float[Tensor, "*parts"]:
        """The mean over all tokens, from that over the tokens of this process.

        Its gradient is that of the mean of this process: the training weighs it with
        the rest of the loss.
        """
        return mean

    def total(self, number: int) -> int:
        """The sum of a number over the processes."""
        return number

    def union(self, numbers: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
        """The numbers of all processes, without a gradient."""
        return numbers

    def smallest(self, number: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The smallest of the numbers of all processes, without a gradient."""
        return number


@runtime_checkable
class Shareable(Protocol):
    """An objective that works on a share of a batch."""

    def use_batch(self, batch: WholeBatch) -> None:
        """Ask this from now on for what is not in the share."""
        ...


class MeanOverTokens:
    """The part of ``Shareable`` that a mean over tokens has: nothing to ask for."""

    def use_batch(self, batch: WholeBatch) -> None:
        """Nothing: the mean of a share is all that the training needs."""
