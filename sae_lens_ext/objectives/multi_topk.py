"""MultiTopK: good at k and, less, at a multiple of it."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext._types import Kind
from sae_lens_ext.kernels import hierarchical_loss
from sae_lens_ext.objectives.base import Loss, Stateless
from sae_lens_ext.objectives.targets import checked_target
from sae_lens_ext.objectives.whole_batch import MeanOverTokens
from sae_lens_ext.sae import SAE


@dataclass(frozen=True)
class MultiTopK(MeanOverTokens, Stateless):
    """The error at k plus a part of the error at 4 k: ``L(k) + L(4 k) / 8``.

    The returned code, and so the count of dead features, is that of k.

    Raises:
        InvalidArgument: a field is out of range.

    Source: Gao et al. 2024 (arXiv 2406.04093), section 5.3.
    """

    factor: int = 4
    """How many times k the second level is; at most d_sae features are used."""
    weight: float = 1 / 8
    """Weight of the second level."""

    def __post_init__(self) -> None:
        """Check the fields."""
        with FieldChecks(self) as check:
            check(arguments.integer, "factor", at_least=2)
            check(arguments.finite, "weight", above=0)

    @property
    def kind(self) -> Kind:
        """See ``Objective.kind``."""
        return "topk"

    def levels_at(self, k: int) -> tuple[int, ...]:
        """See ``Objective.levels_at``; the second level, above k, is left out."""
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
        many = min(self.factor * k, sae.config.d_sae)
        code = sae.encode_normalized(u, many)

        # With k = d_sae there are no more features, and both levels are one.
        levels = [k, many] if many > k else [k]
        weights = [1.0, self.weight] if many > k else None
        mean = hierarchical_loss(
            code.values,
            code.indices,
            sae.W_dec,
            sae.b_dec,
            target,
            levels,
            weights,
        )
        return Loss(mean * (1 + self.weight), code.prefix(k).detach())
