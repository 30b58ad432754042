"""BatchTopK: k active features per token on average, more where they are needed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext._types import Kind
from sae_lens_ext.kernels import sparse_decode
from sae_lens_ext.objectives.base import Loss, check_state
from sae_lens_ext.objectives.batch_selection import BatchSelection
from sae_lens_ext.objectives.running_threshold import RunningThreshold
from sae_lens_ext.objectives.targets import checked_target, mean_square
from sae_lens_ext.objectives.whole_batch import WholeBatch
from sae_lens_ext.sae import SAE, SparseCode

_N_UPDATES = "n_updates"


@dataclass(frozen=True)
class BatchTopK:
    """The reconstruction error with the k times n strongest activations of n tokens.

    The SAE that comes out is used without a batch: a feature is active where it exceeds
    ``sae.threshold``, a running mean of the smallest activation that a batch kept.
    Activations that equal the smallest one are all kept.

    Raises:
        InvalidArgument: a field is out of range.

    Source: Bussmann et al. 2024, "BatchTopK Sparse Autoencoders" (arXiv 2412.06410),
    equations 3 to 5. The running mean and its decay are those of dictionary_learning
    0.1, which starts it after 1,000 steps; here early batches are forgotten faster
    instead, so that short trainings have a threshold too.
    """

    decay: float = 0.999
    """Share of the running threshold that stays in a step, in a long training."""
    _select: BatchSelection = field(
        init=False, repr=False, compare=False, default_factory=BatchSelection
    )
    _threshold: RunningThreshold = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the fields."""
        with FieldChecks(self) as check:
            check(arguments.finite, "decay", at_least=0, below=1)
        object.__setattr__(self, "_threshold", RunningThreshold(self.decay))

    @property
    def kind(self) -> Kind:
        """See ``Objective.kind``."""
        return "batchtopk"

    def levels_at(self, k: int) -> tuple[int, ...]:
        """None: at inference a threshold decides, and any k may cap it."""
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
        values, indices = self._select(sae, u, arguments.k(k, sae.config.d_sae))
        value = self._error(sae, values, indices, target)
        return Loss(value, SparseCode(values.detach(), indices, sae.config.d_sae))

    def _error(
        self, sae: SAE, values: Tensor, indices: Tensor, target: Tensor
    ) -> Tensor:
        """The error of the reconstruction from the kept activations."""
        recons = sparse_decode(values, indices, sae.W_dec, sae.b_dec)
        return mean_square(recons - target)

    def use_batch(self, batch: WholeBatch) -> None:
        """See ``Shareable.use_batch``."""
        self._select.batch = batch
        self._threshold.batch = batch

    def after_step(self, sae: SAE, code: SparseCode) -> None:
        """Move the SAE's threshold towards the smallest activation of the batch."""
        self._threshold.update(sae, code)

    def state_dict(self) -> dict[str, Any]:
        """How often the threshold was updated; it is itself a weight of the SAE."""
        return {_N_UPDATES: self._threshold.n_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``Objective.load_state_dict``."""
        check_state(state, (_N_UPDATES,))
        self._threshold.n_updates = arguments.integer(
            state[_N_UPDATES], _N_UPDATES, at_least=0
        )
