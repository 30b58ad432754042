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
        # Plain numbers, so that edits can be compared, hashed and written as JSON.
        vector = numbers(self.vector, "vector")
        object.__setattr__(self, "vector", vector)
        scale = number(self.scale, "scale")
        object.__setattr__(self, "scale", scale)

    def added(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, " d_model"]:
        """The vector to add to ``x`` where this edit acts.

        Raises:
            ShapeMismatch: the vector has another width.
        """
        n_numbers = len(self.vector)
        width = x.shape[-1]
        if n_numbers != width:
            raise ShapeMismatch(
                f"the direction to add has {n_numbers} numbers; "
                f"the activation there is {width} wide"
            )
        vector = x.new_tensor(self.vector)
        return vector * self.scale
