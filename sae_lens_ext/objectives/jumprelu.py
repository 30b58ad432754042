"""JumpReLU: a learned threshold per feature."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext._types import Kind
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.objectives.active import active_features
from sae_lens_ext.objectives.base import Loss, Stateless
from sae_lens_ext.objectives.straight_through import jump, step
from sae_lens_ext.objectives.targets import checked_target, mean_square
from sae_lens_ext.objectives.whole_batch import WholeBatch
from sae_lens_ext.sae import SAE, SparseCode

_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class JumpReLU(Stateless):
    """The reconstruction error plus a penalty on L0, the number of active features.

    Without a coefficient the penalty is ``(L0 / k - 1) ** 2``, which aims at k active
    features per token on average. With one it is ``coefficient * L0``, and k does not
    matter.

    L0 here is the mean over the batch. Only thresholds learn from the penalty, by
    straight-through gradients (``straight_through``); the encoder learns from the
    error. Thresholds are trained as they are, in float32, and kept at half a bandwidth
    or more, where they also start: below it, activations at 0 would count as near
    them.

    Raises:
        InvalidArgument: a field is out of range.

    Source: Rajamanoharan et al. 2024 (arXiv 2407.14435), equations 9 to 12, with the
    bandwidth of its experiments. The penalty that aims at an L0 has the form and weight
    of dictionary_learning 0.1.
    """

    bandwidth: float = 0.001
    """Width around a threshold within which activations train it, for activations of
    norm 1, as in the paper; it is multiplied by their norm here, sqrt(d_model)."""
    coefficient: float | None = None
    """Weight of L0 in the loss; None aims at an L0 of k instead. The paper's sparsity
    coefficients mean the same here."""
    _batch: WholeBatch = field(
        init=False, repr=False, compare=False, default_factory=WholeBatch
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        with FieldChecks(self) as check:
            check(arguments.finite, "bandwidth", above=0)
            check(arguments.finite, "coefficient", at_least=0, optional=True)

    @property
    def kind(self) -> Kind:
        """See ``Objective.kind``."""
        return "jumprelu"

    def levels_at(self, k: int) -> tuple[int, ...]:
        """None: thresholds decide, and any k may cap them."""
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
        """See ``Objective.__call__``.

        Raises:
            InvalidArgument: an SAE in half precision, which cannot hold small changes
                of thresholds.
        """
        target = checked_target(self.kind, sae, u, target)
        width = self._width(sae)
        threshold = _at_least(_threshold(sae), width / 2)

        # All that are active, and all that are near their threshold.
        bound = threshold.detach() - width / 2
        active = active_features(sae, u, bound)
        thresholds = active.of(threshold)
        acts = jump(active.values, thresholds, width)
        is_on = step(active.values, thresholds, width)

        error = mean_square(active.decoded(sae, acts) - target)
        l0 = self._batch.mean(is_on.sum(dim=1).mean())
        code = active.code(acts, sae.config.d_sae)
        return Loss(error + self._penalty(l0, k), code)

    def _penalty(self, l0: Tensor, k: int) -> Tensor:
        if self.coefficient is None:
            return (l0 / k - 1).square()
        return self.coefficient * l0

    def use_batch(self, batch: WholeBatch) -> None:
        """See ``Shareable.use_batch``."""
        object.__setattr__(self, "_batch", batch)

    def _width(self, sae: SAE) -> float:
        return self.bandwidth * math.sqrt(sae.config.d_model)

    @torch.no_grad()
    def after_step(self, sae: SAE, code: SparseCode) -> None:
        """Keep thresholds at half a bandwidth or more."""
        _threshold(sae).clamp_(min=self._width(sae) / 2)


def _threshold(sae: SAE) -> Tensor:
    threshold = sae.threshold
    assert threshold is not None, "an SAE of kind jumprelu has one"
    if threshold.dtype not in _DTYPES:
        raise InvalidArgument(
            "JumpReLU trains SAEs in float32, because half precision cannot hold small "
            f"changes of thresholds; got {threshold.dtype}; for faster products use "
            "torch.autocast"
        )
    return threshold


def _at_least(threshold: Tensor, smallest: float) -> Tensor:
    """Thresholds raised to a smallest value, with the gradients of those given."""
    raised = threshold.detach().clamp_min(smallest)
    return threshold + (raised - threshold.detach())
