"""The interface of every objective."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.sae import SAE, SparseCode


class Loss(NamedTuple):
    """The loss of a batch, and the code it was computed from."""

    value: Float[Tensor, ""]
    """Mean squared error per coordinate of normalised activations, with a gradient.

    In float32 or wider, whatever the SAE's dtype.
    """
    code: SparseCode
    """The k strongest features of every token."""


@runtime_checkable
class Objective(Protocol):
    """A loss for TopK SAEs."""

    def levels_at(self, k: int) -> tuple[int, ...]:
        """The values of k that count in the loss when the largest is ``k``.

        Returns:
            Rising values that end in ``k``.

        Raises:
            InvalidK: the objective does not allow training at ``k``.
        """
        ...

    def __call__(self, sae: SAE, u: Float[Tensor, "batch d_model"], k: int) -> Loss:
        """The loss of a batch of activations that are already centred and scaled."""
        ...
