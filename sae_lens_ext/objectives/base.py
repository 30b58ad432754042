"""What every objective offers."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.sae import SAE, SparseCode


class Loss(NamedTuple):
    """A batch's loss, and the code it was computed from."""

    value: Float[Tensor, ""]
    """Mean squared error per coordinate, in units of the normalised activations; differentiable."""
    code: SparseCode
    """The k strongest features of every token."""


@runtime_checkable
class Objective(Protocol):
    """A loss for TopK SAEs."""

    def levels_at(self, k: int) -> tuple[int, ...]:
        """The values of k this objective looks at when the largest is ``k``; rising, ending in ``k``.

        Raises:
            InvalidK: it cannot be trained at ``k``.
        """
        ...

    def __call__(self, sae: SAE, u: Float[Tensor, "batch d_model"], k: int) -> Loss:
        """The loss of a batch of activations that are centred and scaled already."""
        ...
