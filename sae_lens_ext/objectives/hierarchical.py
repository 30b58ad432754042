"""HierarchicalTopK: one SAE, good at every k."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext._types import Kind
from sae_lens_ext.errors import InvalidArgument, InvalidK
from sae_lens_ext.kernels import hierarchical_loss
from sae_lens_ext.objectives.base import Loss
from sae_lens_ext.sae import SAE, SparseCode


@dataclass(frozen=True)
class HierarchicalTopK:
    """The mean reconstruction error over many k, from one encode at the largest.

    >>> HierarchicalTopK().levels_at(4), HierarchicalTopK(levels=(1, 2, 4)).levels_at(4)
    ((1, 2, 3, 4), (1, 2, 4))

    It nests *how many* features of one dictionary are used, by their strength on each
    token. It is neither a tree of features nor a Matryoshka SAE, which nests *which*
    features exist.

    A subset of the levels is cheaper and a different objective: with powers of two,
    weak features weigh far less.

    Raises:
        InvalidArgument: ``levels`` or ``weights`` are of another kind, or there is not
            one weight per level.

    Source: Balagansky, Aksenov et al. 2025 (arXiv 2505.24473).
    """

    levels: Literal["all"] | Sequence[int] = "all"
    """The values of k that count, rising; "all" means from 1 to the largest."""
    weights: Sequence[float] | None = None
    """One weight per level, of which only ratios matter; None weighs all alike."""

    def __post_init__(self) -> None:
        """Check the fields; lists become tuples."""
        with FieldChecks(self) as check:
            check(_levels, "levels")
            check(_weights, "weights", optional=True)

        n_levels = None if self.levels == "all" else len(self.levels)
        with FieldChecks(self) as check:
            check.that(
                self.weights is None or len(self.weights) == n_levels,
                "weights must have one number per level, and levels must be listed; "
                f"got levels={self.levels!r}, weights={self.weights}",
            )

    @property
    def kind(self) -> Kind:
        """See ``Objective.kind``."""
        return "topk"

    def levels_at(self, k: int) -> tuple[int, ...]:
        """See ``Objective.levels_at``."""
        if self.levels == "all":
            return tuple(range(1, k + 1))

        levels = tuple(self.levels)
        is_rising = list(levels) == sorted(set(levels))
        if not levels or not is_rising or levels[0] < 1 or levels[-1] != k:
            raise InvalidK(
                f"levels must rise from at least 1 to k={k}, the number of features to "
                f"train with; got {levels}"
            )
        return levels

    def __call__(
        self,
        sae: SAE,
        u: Float[Tensor, "batch d_model"],
        k: int,
        *,
        target: Float[Tensor, "batch d_out"] | None = None,
        is_dead: Bool[Tensor, " d_sae"] | None = None,
    ) -> Loss:
        """See ``Objective.__call__``."""
        # None is how the kernel names all levels.
        levels = None if self.levels == "all" else self.levels_at(k)
        code = sae.encode_normalized(u, k)
        value = hierarchical_loss(
            code.values,
            code.indices,
            sae.W_dec,
            sae.b_dec,
            u if target is None else target,
            levels,
            self.weights,
        )
        return Loss(value, code.detach())

    def after_step(self, sae: SAE, code: SparseCode) -> None:
        """Nothing: the optimizer changes everything there is."""


def _levels(value: object, name: str) -> Literal["all"] | tuple[int, ...]:
    if isinstance(value, str) and value == "all":
        return "all"
    levels = arguments.as_integers(value)
    if levels is None:
        raise InvalidArgument(
            f"{name} must be 'all' or a list of integers; got {value!r}"
        )
    return levels


def _weights(value: Any, name: str) -> tuple[float, ...]:
    is_valid = isinstance(value, list | tuple) and all(
        isinstance(weight, int | float) for weight in value
    )
    if not is_valid:
        raise InvalidArgument(
            f"{name} must be a list of numbers, one per level; got {value!r}"
        )
    return tuple(value)
