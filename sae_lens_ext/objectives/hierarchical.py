"""HierarchicalTopK: one SAE, good at every k."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from sae_lens_ext._arguments import as_integers
from sae_lens_ext.errors import InvalidArgument, InvalidK
from sae_lens_ext.kernels import hierarchical_loss
from sae_lens_ext.objectives.base import Loss
from sae_lens_ext.sae import SAE


@dataclass(frozen=True)
class HierarchicalTopK:
    """The mean reconstruction error over many k at once, from one encode at the largest.

    >>> HierarchicalTopK().levels_at(4), HierarchicalTopK(levels=(1, 2, 4)).levels_at(4)
    ((1, 2, 3, 4), (1, 2, 4))

    It nests *how many* features of one dictionary are used, by their strength on each token. That is neither a tree of features
    nor a Matryoshka SAE, which nests *which* features exist.

    Attributes:
        levels: the k that count, rising; "all" means every one from 1 to the largest. A subset is cheaper and a different
            objective: with powers of two, weak features weigh far less.
        weights: one weight per level, None for all alike. Only ratios matter; not available with "all".

    Source: Balagansky, Aksenov et al. 2025 (arXiv 2505.24473).
    """

    levels: Literal["all"] | Sequence[int] = "all"
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Accept lists too, and check that weights have levels to belong to."""
        if self.levels != "all":
            levels = as_integers(self.levels)
            if levels is None:
                raise InvalidArgument(
                    f"levels must be 'all' or whole numbers; got {self.levels!r}"
                )
            object.__setattr__(self, "levels", levels)
        if self.weights is not None:
            if not isinstance(self.weights, list | tuple) or not all(
                isinstance(weight, int | float) for weight in self.weights
            ):
                raise InvalidArgument(
                    f"weights must be numbers, one per level; got {self.weights!r}"
                )
            object.__setattr__(self, "weights", tuple(self.weights))
            if self.levels == "all" or len(self.weights) != len(self.levels):
                raise InvalidArgument(
                    f"weights need one level each, named in levels; got levels={self.levels!r}, weights={self.weights}"
                )

    def levels_at(self, k: int) -> tuple[int, ...]:
        """See ``Objective.levels_at``."""
        if self.levels == "all":
            return tuple(range(1, k + 1))
        if (
            not self.levels
            or list(self.levels) != sorted(set(self.levels))
            or self.levels[0] < 1
            or self.levels[-1] != k
        ):
            raise InvalidK(
                f"levels must rise from at least 1 to k={k}, the number of features to train with; got {self.levels}"
            )
        return tuple(self.levels)

    def __call__(self, sae: SAE, u: Float[Tensor, "batch d_model"], k: int) -> Loss:
        """See ``Objective.__call__``."""
        levels = None if self.levels == "all" else self.levels_at(k)
        code = sae.encode_normalized(u, k)
        value = hierarchical_loss(
            code.values, code.indices, sae.W_dec, sae.b_dec, u, levels, self.weights
        )
        return Loss(value, code.detach())
