"""HierarchicalTopK: one SAE, good at every k."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext._types import Kind
from sae_lens_ext.kernels import hierarchical_loss, hierarchical_loss_parts
from sae_lens_ext.objectives.base import Loss, check_state
from sae_lens_ext.objectives.level_draws import LevelDraws
from sae_lens_ext.objectives.level_errors import LevelErrors
from sae_lens_ext.objectives.levels import Levels, checked_levels, levels_of
from sae_lens_ext.objectives.targets import checked_target
from sae_lens_ext.objectives.weights import Weights, checked_weights, fixed_weights
from sae_lens_ext.objectives.whole_batch import WholeBatch
from sae_lens_ext.sae import SAE, SparseCode

_ERRORS = "level_errors"
_GENERATOR = "generator"


@dataclass(frozen=True)
class HierarchicalTopK:
    """The mean reconstruction error over many k, from one encode at the largest.

    >>> HierarchicalTopK().levels_at(4), HierarchicalTopK(levels=(1, 2, 4)).levels_at(4)
    ((1, 2, 3, 4), (1, 2, 4))

    It nests *how many* features of one dictionary are used, by their strength on each
    token. It is neither a tree of features nor a Matryoshka SAE, which nests *which*
    features exist.

    A subset of the levels is cheaper and a different objective: with powers of two,
    weak features weigh far less. Sampled levels are cheaper, and on average the same
    objective.

    Raises:
        InvalidArgument: a field is invalid, or there is not one weight per level.

    Source: Balagansky, Aksenov et al. 2025 (arXiv 2505.24473), with all levels and
    equal weights, which are the defaults. Powers of two: Zaigrajew et al. 2025 (MSAE,
    arXiv 2502.20578). One sampled level is nested dropout: Rippel et al. 2014 (arXiv
    1402.0915).
    """

    levels: Levels = "all"
    """The values of k that count: all from 1 to the largest, powers_of_two (and the
    largest), or a rising list that ends in the largest."""
    weights: Weights | None = None
    """How much each level counts: uniform (as None), half_on_largest (the largest as
    much as all others together), ramp (level j weighs j), inverse (1 / j), relative
    (one over a running mean of its error), or a number per level, of which only ratios
    matter."""
    stride: int = 1
    """Of all levels, every how manieth counts; the largest always does."""
    sampled: int | None = None
    """Levels to draw in every step, with the weights as probabilities, so that on
    average the loss is that of all; None uses all of them."""
    decay: float = 0.99
    """For relative weights: share of the running mean that stays in a step."""
    seed: int = 0
    """For sampled levels: the seed of the draws."""
    _errors: LevelErrors = field(init=False, repr=False, compare=False)
    _draws: LevelDraws = field(init=False, repr=False, compare=False)
    # The errors of the last batch, which count once the weights have changed.
    _pending: list[tuple[list[int], Tensor]] = field(
        init=False, repr=False, compare=False, default_factory=list
    )
    _batch: WholeBatch = field(
        init=False, repr=False, compare=False, default_factory=WholeBatch
    )

    def __post_init__(self) -> None:
        """Check the fields; lists become tuples."""
        with FieldChecks(self) as check:
            check(checked_levels, "levels")
            check(checked_weights, "weights", optional=True)
            check(arguments.positive_int, "stride")
            check(arguments.positive_int, "sampled", optional=True)
            check(arguments.finite, "decay", at_least=0, below=1)
            check(arguments.integer, "seed", at_least=0)
        with FieldChecks(self) as check:
            self._check_relations(check)

        object.__setattr__(self, "_errors", LevelErrors(self.decay))
        object.__setattr__(self, "_draws", LevelDraws(self.seed))

    def _check_relations(self, check: FieldChecks) -> None:
        is_listed = not isinstance(self.levels, str)
        if self.weights is not None and not isinstance(self.weights, str):
            check.that(
                is_listed and len(self.weights) == len(self.levels),
                "weights must have one number per level, and levels must be listed; "
                f"got levels={self.levels!r}, weights={self.weights}",
            )
        check.that(
            self.stride == 1 or self.levels == "all",
            f"stride={self.stride} is for levels='all'; got levels={self.levels!r}",
        )

    @property
    def kind(self) -> Kind:
        """See ``Objective.kind``."""
        return "topk"

    def levels_at(self, k: int) -> tuple[int, ...]:
        """See ``Objective.levels_at``."""
        return levels_of(self.levels, self.stride, k)

    def weights_at(self, k: int) -> list[float]:
        """The weight of every level at this point of the training; ratios matter."""
        levels = self.levels_at(k)
        if self.weights == "relative":
            return self._errors.weights(levels)
        return fixed_weights(self.weights or "uniform", levels)

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
        levels = list(self.levels_at(k))
        weights = self.weights_at(k)
        if self.sampled is not None:
            levels, weights = self._draws.draw(levels, weights, self.sampled)

        code = sae.encode_normalized(u, k)
        # Features behind the last level that counts have no part in the loss.
        prefix = code.prefix(levels[-1])
        decoder = (prefix.values, prefix.indices, sae.W_dec, sae.b_dec)
        if self.weights == "relative":
            parts = hierarchical_loss_parts(*decoder, target, levels, weights)
            self._pending[:] = [(levels, self._batch.mean(parts.per_level))]
            return Loss(parts.loss, code.detach())
        value = hierarchical_loss(*decoder, target, levels, weights)
        return Loss(value, code.detach())

    def use_batch(self, batch: WholeBatch) -> None:
        """See ``Shareable.use_batch``."""
        object.__setattr__(self, "_batch", batch)

    def after_step(self, sae: SAE, code: SparseCode) -> None:
        """Take the errors of the batch into the running means, for relative weights."""
        for levels, errors in self._pending:
            self._errors.update(levels, errors)
        self._pending.clear()

    def state_dict(self) -> dict[str, Any]:
        """The running means of the errors, and the state of the draws."""
        state: dict[str, Any] = {}
        if self.weights == "relative":
            state[_ERRORS] = self._errors.values.clone()
        if self.sampled is not None:
            state[_GENERATOR] = self._draws.generator.get_state()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``Objective.load_state_dict``."""
        check_state(state, tuple(self.state_dict()))
        if _ERRORS in state:
            self._errors.values = state[_ERRORS].detach().to("cpu", torch.float64)
        if _GENERATOR in state:
            self._draws.generator.set_state(state[_GENERATOR].cpu())
        self._pending.clear()
