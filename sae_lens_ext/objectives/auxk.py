"""AuxK: dead features learn what the live ones leave over."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext._types import Kind
from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.kernels import sparse_decode, topk_encode
from sae_lens_ext.objectives.base import Loss, Objective
from sae_lens_ext.objectives.encoding import pre_bias
from sae_lens_ext.objectives.hierarchical import HierarchicalTopK
from sae_lens_ext.objectives.targets import checked_target, mean_square
from sae_lens_ext.objectives.whole_batch import Shareable, WholeBatch
from sae_lens_ext.sae import SAE, SparseCode


@dataclass(frozen=True)
class AuxK:
    """Another objective, plus a small loss that revives dead features.

    With e the error of the final reconstruction, without a gradient, and ê the
    reconstruction of e from the ``k_aux`` strongest dead features of every token, it
    adds ``coefficient`` times the mean square of e - ê. Thresholds do not apply to dead
    features here. Without dead features it adds nothing.

    Raises:
        InvalidArgument: a field is invalid.

    Source: Gao et al. 2024 (arXiv 2406.04093), appendix A.2.
    """

    objective: Objective = field(default_factory=HierarchicalTopK)
    """The objective that it is added to."""
    k_aux: int | None = None
    """Dead features that a token uses; None for the power of two closest to half of
    d_model, as in the paper. Fewer where fewer are dead."""
    coefficient: float = 1 / 32
    """Weight of the added loss."""

    def __post_init__(self) -> None:
        """Check the fields."""
        with FieldChecks(self) as check:
            check(_objective, "objective")
            check(arguments.positive_int, "k_aux", optional=True)
            check(arguments.finite, "coefficient", at_least=0)

    @property
    def kind(self) -> Kind:
        """That of the objective."""
        return self.objective.kind

    def levels_at(self, k: int) -> tuple[int, ...]:
        """Those of the objective."""
        return self.objective.levels_at(k)

    def __call__(
        self,
        sae: SAE,
        u: Float[Tensor, "batch d_model"],
        k: int,
        *,
        target: Float[Tensor, "batch d_out"] | None = None,
        is_dead: Bool[Tensor, " d_sae"] | None = None,
    ) -> Loss:
        """See ``Objective.__call__``.

        Raises:
            ShapeMismatch: ``is_dead`` does not have one entry per feature.
        """
        loss = self.objective(sae, u, k, target=target, is_dead=is_dead)
        if is_dead is None:
            return loss
        d_sae = sae.config.d_sae
        if list(is_dead.shape) != [d_sae]:
            raise ShapeMismatch(
                f"is_dead must be [d_sae={d_sae}]; got {list(is_dead.shape)}"
            )
        dead = is_dead.nonzero().flatten()
        if not len(dead):
            return loss

        code = loss.code
        with torch.no_grad():
            recons = sparse_decode(code.values, code.indices, sae.W_dec, sae.b_dec)
            error = checked_target(self.kind, sae, u, target) - recons
        recons_of_error = self._from_dead_features(sae, u, dead)
        added = mean_square(recons_of_error - error)
        return Loss(loss.value + self.coefficient * added, code)

    def _from_dead_features(
        self,
        sae: SAE,
        u: Float[Tensor, "batch d_model"],
        dead: Int[Tensor, " dead"],
    ) -> Float[Tensor, "batch d_out"]:
        """What the strongest dead features of every token reconstruct."""
        # The product with their columns alone.
        values, places = topk_encode(
            u,
            sae.W_enc.T[dead].T,
            sae.b_enc[dead],
            min(self.k_aux_of(sae), len(dead)),
            centre=pre_bias(sae),
        )
        without_bias = torch.zeros_like(sae.b_dec)
        return sparse_decode(values, dead[places], sae.W_dec, without_bias)

    def k_aux_of(self, sae: SAE) -> int:
        """``k_aux``, or its default for an SAE."""
        if self.k_aux is not None:
            return self.k_aux
        half = max(1.0, sae.config.d_model / 2)
        return 1 << round(math.log2(half))

    def use_batch(self, batch: WholeBatch) -> None:
        """That of the objective; what is added is a mean over tokens."""
        if isinstance(self.objective, Shareable):
            self.objective.use_batch(batch)

    def after_step(self, sae: SAE, code: SparseCode) -> None:
        """That of the objective."""
        self.objective.after_step(sae, code)

    def state_dict(self) -> dict[str, Any]:
        """That of the objective."""
        return self.objective.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``Objective.load_state_dict``."""
        self.objective.load_state_dict(state)


def _objective(value: Any, name: str) -> Objective:
    # The class itself passes isinstance of a runtime-checkable protocol.
    if not isinstance(value, Objective) or isinstance(value, type | AuxK):
        raise InvalidArgument(
            f"{name} must be an objective such as TopK(), other than AuxK; "
            f"got {described(value)}"
        )
    return value
