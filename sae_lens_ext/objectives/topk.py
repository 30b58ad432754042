"""The ordinary TopK objective: good at one k."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext._types import Kind
from sae_lens_ext.kernels import sparse_decode
from sae_lens_ext.objectives.base import Loss, Stateless
from sae_lens_ext.objectives.targets import checked_target, mean_square
from sae_lens_ext.objectives.whole_batch import MeanOverTokens
from sae_lens_ext.sae import SAE


@dataclass(frozen=True)
class TopK(MeanOverTokens, Stateless):
    """The reconstruction error at k alone.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv
    2406.04093), section 2.3.
    """

    @property
    def kind(self) -> Kind:
        """See ``Objective.kind``."""
        return "topk"

    def levels_at(self, k: int) -> tuple[int, ...]:
        """See ``Objective.levels_at``."""
        return (k,)

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
        code = sae.encode_normalized(u, k)
        recons = sparse_decode(code.values, code.indices, sae.W_dec, sae.b_dec)
        return Loss(mean_square(recons - target), code.detach())
