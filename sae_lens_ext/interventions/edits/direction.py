"""The edit that adds a direction to the activation itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.errors import ShapeMismatch
from sae_lens_ext.interventions.edits.base import Edit
from sae_lens_ext.interventions.edits.values import Number, number, numbers


@dataclass(frozen=True, repr=False)
class AddDirection(Edit):
    """Add a vector to the activation itself, after everything else the splice does.

    Attributes:
        vector: the direction, ``[d_model]``, from anywhere; ``difference_in_means`` is
            the usual baseline.
        scale: what the vector is multiplied by.
    """

    vector: Sequence[Number] | Tensor
    scale: Number = 1.0

    def __post_init__(self) -> None:
        """Check the vector and its scale.

        Raises:
            InvalidArgument: not finite numbers.
        """
        super().__post_init__()
        object.__setattr__(self, "vector", numbers(self.vector, "vector"))
        object.__setattr__(self, "scale", number(self.scale, "scale"))

    def added(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, " d_model"]:
        """The vector to add to ``x`` where this edit acts.

        Raises:
            ShapeMismatch: the vector has another width.
        """
        if len(self.vector) != x.shape[-1]:
            raise ShapeMismatch(
                f"the direction to add has {len(self.vector)} numbers; "
                f"the activation there is {x.shape[-1]} wide"
            )
        return x.new_tensor(self.vector) * self.scale
