"""The interface of every objective."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext._types import Kind
from sae_lens_ext.errors import InvalidArgument
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
    """A loss for SAEs and transcoders of one kind."""

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
            k: active features per token; for a kind without k, what their mean over
                the batch is, or aims at.
            target: what to reconstruct, centred and scaled; None means ``u``. A
                transcoder needs it. A skip connection's share is computed from ``u``.
            is_dead: features that have not been active for long; None means none. Only
                ``AuxK`` uses it.

        Raises:
            InvalidArgument: an SAE of another kind, or a transcoder without a target.
            ShapeMismatch: the shapes do not fit, or the batch has no tokens.
        """
        ...

    def after_step(self, sae: SAE, code: SparseCode) -> None:
        """Update what the optimizer does not, once the weights have changed.

        Args:
            sae: the SAE after the optimizer's step.
            code: of the batch, from the loss before the step.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What training changes in the objective itself: tensors and JSON values.

        Empty for most. A checkpoint keeps it, so that a resumed training goes on
        exactly as it would have.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            InvalidArgument: a state of another objective.
        """
        ...


class Stateless:
    """The part of the interface that an objective without a state has."""

    def after_step(self, sae: SAE, code: SparseCode) -> None:
        """Nothing: the optimizer changes everything there is."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``Objective.load_state_dict``."""
        check_state(state, ())


def check_state(state: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Check that a saved state has these entries, and no others.

    Raises:
        InvalidArgument: it does not.
    """
    if set(state) != set(names):
        raise InvalidArgument(
            "the saved state is of another objective: it must have "
            f"{', '.join(names) or 'no entries'}; got {', '.join(state) or 'none'}"
        )
