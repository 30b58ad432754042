"""ReLU with an L1 penalty."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext._types import Kind
from sae_lens_ext.objectives.active import active_features
from sae_lens_ext.objectives.base import Loss, Stateless
from sae_lens_ext.objectives.targets import checked_target, mean_square
from sae_lens_ext.objectives.whole_batch import MeanOverTokens
from sae_lens_ext.sae import SAE


@dataclass(frozen=True)
class ReLU(MeanOverTokens, Stateless):
    """The reconstruction error plus an L1 penalty on the activations.

    The penalty of a token is the sum of its activations, each times the norm of its
    decoder row. k does not matter.

    Raises:
        InvalidArgument: the coefficient is negative.

    Source: Conerly et al. 2024, "Update on how we train SAEs" (Transformer Circuits,
    April 2024), with its coefficient of 5 for activations of norm sqrt(d).
    """

    coefficient: float = 5.0
    """Weight of the penalty beside a squared error that is summed over coordinates, as
    published; both are divided by their number here."""

    def __post_init__(self) -> None:
        """Check the fields."""
        with FieldChecks(self) as check:
            check(arguments.finite, "coefficient", at_least=0)

    @property
    def kind(self) -> Kind:
        """See ``Objective.kind``."""
        return "relu"

    def levels_at(self, k: int) -> tuple[int, ...]:
        """None: all positive features are active, and any k may cap them."""
        return ()

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
        target = checked_target(self.kind, sae, u, target)
        active = active_features(sae, u, torch.zeros_like(sae.b_enc))
        error = mean_square(active.decoded(sae, active.values) - target)

        # Sums of many activations do not fit into half precision.
        norms = active.of(torch.linalg.vector_norm(sae.W_dec, dim=1))
        penalty = (active.values * norms).to(error.dtype).sum(dim=1).mean()
        value = error + self.coefficient / sae.config.output_width * penalty
        return Loss(value, active.code(active.values, sae.config.d_sae))
