"""The interface of every objective."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext._types import Kind
from sae_lens_ext.sae import SAE, SparseCode


class Loss(NamedTuple):
    """The loss of a batch, and the code it was computed from."""

    value: Float[Tensor, ""]
    """What is minimised, with a gradient: a mean squared error per coordinate of
    normalised activations, and what an objective adds to it.

    In float32 or wider, whatever the SAE's dtype.
    """
    code: SparseCode
    """The active features of every token, without a gradient."""


@runtime_checkable
class Objective(Protocol):
    """A loss for SAEs of one kind."""

    @property
    def kind(self) -> Kind:
        """The kind of the SAEs that it trains; see ``SAEConfig``."""
        ...

    def levels_at(self, k: int) -> tuple[int, ...]:
        """The values of k that count in the loss when the largest is ``k``.

        Returns:
            Rising values that end in ``k``; none for a kind without k.

        Raises:
            InvalidK: the objective does not allow training at ``k``.
        """
        ...

    def __call__(
        self,
        sae: SAE,
        u: Float[Tensor, "batch d_model"],
        k: int,
        *,
        target: Float[Tensor, "batch d_out"] | None = None,
        is_dead: Bool[Tensor, " d_sae"] | None = None,
    ) -> Loss:
        """The loss of a batch.

        Args:
            sae: the SAE, or the transcoder.
            u: activations that are centred and scaled already.
            k: active features per token.
            target: what to reconstruct, centred and scaled; None means ``u``.
            is_dead: features that have not been active for long; None means none.
        """
        ...

    def after_step(self, sae: SAE, code: SparseCode) -> None:
        """Update what the optimizer does not, once the weights have changed."""
        ...
