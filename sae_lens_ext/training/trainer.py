"""The steps of a training, from batches of a stream to changed weights."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.errors import NonFinite
from sae_lens_ext.training.activity import active_in
from sae_lens_ext.training.config import TrainConfig
from sae_lens_ext.training.normalization import Normalization
from sae_lens_ext.training.optimizer import set_learning_rate
from sae_lens_ext.training.parallel import ALONE, Ranks
from sae_lens_ext.training.revival import revive
from sae_lens_ext.training.state import TrainState
from sae_lens_ext.training.step import train_step
from sae_lens_ext.training.stream import ActivationStream
from sae_lens_ext.training.stream.checks import check_batch
from sae_lens_ext.training.stream.lazy import LazyBatch

Pair = tuple[Float[Tensor, "token d_model"], Float[Tensor, "token d_out"] | None]
"""Inputs and targets, centred and scaled; a target of None is the input itself."""


class StepBatch:
    """The tokens of a step, centred, scaled and on the device as they are asked for.

    Attributes:
        n_tokens: how many these are.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        normalization: Normalization,
        device: torch.device,
    ) -> None:
        """Take a batch of a stream."""
        self._values = values
        self._normalization = normalization
        self._device = device
        self.n_tokens = (
            values.n_tokens
            if isinstance(values, LazyBatch)
            else len(values[normalization.hook_name])
        )

    def pair(self, rows: slice = slice(None)) -> Pair:
        """The input, and a transcoder's target, of some consecutive tokens."""
        if isinstance(self._values, LazyBatch):
            part = self._values.part(rows)
        else:
            part = {site: values[rows] for site, values in self._values.items()}
        return self._normalization.pair(part, self._device)


class Trainer:
    """Takes the steps of one training.

    Attributes:
        stream: where the activations come from.
        config: the settings.
        normalization: of the sites.
        state: everything that the steps change.
        n_tokens: tokens of the whole training.
        n_steps: steps of the whole training.
        decoder_norms: the norms at which the decoder's rows here are kept; None for 1.
        ranks: the processes that share it.
    """

    def __init__(
        self,
        stream: ActivationStream,
        config: TrainConfig,
        normalization: Normalization,
        state: TrainState,
        *,
        n_tokens: int,
        n_steps: int,
        decoder_norms: Float[Tensor, " rows"] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Put a training together; nothing is done yet."""
        self.stream = stream
        self.config = config
        self.normalization = normalization
        self.state = state
        self.n_tokens = n_tokens
        self.n_steps = n_steps
        self.decoder_norms = decoder_norms
        self.ranks = ranks
        self._widths = {
            site: len(constants.mean)
            for site, constants in normalization.statistics.items()
        }
        self._is_checked = ranks is ALONE
        self._device = state.activity.idle.device
        self._dtype: torch.dtype = getattr(torch, config.dtype)

    def has_steps_left(self) -> bool:
        """Whether the training is not over yet."""
        return self.state.step < self.n_steps

    def next_batch(self) -> StepBatch | None:
        """The next batch; None if the stream has ended."""
        n_left = self.n_tokens - self.state.n_tokens
        n_wanted = min(self.config.batch_size, n_left)
        values = self.stream.next_batch(n_wanted)
        # Lazy batches are of this package's own streams.
        if not isinstance(values, LazyBatch):
            check_batch(values, self._widths, n_wanted)
        if not self._is_checked:
            self.ranks.check_batch(values[self.normalization.hook_name])
            self._is_checked = True
        batch = StepBatch(values, self.normalization, self._device)
        return batch if batch.n_tokens else None

    def step(self, batch: StepBatch) -> None:
        """Change the weights once, and count what was active.

        Args:
            batch: the whole batch, of which each process takes its share.

        Raises:
            NonFinite: the loss became NaN or infinite; see ``Losses.add``. The message
                says so if the batch did.
        """
        config = self.config
        state = self.state
        number = state.step
        k = config.k_at(number, self.n_steps)
        set_learning_rate(state.optimizer, config.lr_at(number, self.n_steps))
        share = self.ranks.begin_step(batch.n_tokens)
        u, target = batch.pair(share.rows)

        loss, code = train_step(
            state.sae,
            state.optimizer,
            state.objective,
            u,
            k,
            target=target,
            is_dead=state.activity.known_dead(),
            clip=config.clip,
            dtype=self._dtype,
            norms=self.decoder_norms,
            ranks=self.ranks,
        )
        try:
            state.losses.add(loss)
        except NonFinite as error:
            if bool(torch.isfinite(u).all()):
                raise
            raise NonFinite(
                f"the stream gave NaN or infinity in the batch of step {number + 1}; "
                "leave such tokens out"
            ) from error
        state.activity.count(self.ranks.active(active_in(code)), batch.n_tokens)

        if self._revives_after(number + 1):
            self._revive(batch, k)

    def _revives_after(self, n_steps: int) -> bool:
        every = self.config.revive_every
        is_falling = n_steps > (1 - self.config.decay) * self.n_steps
        return every is not None and n_steps % every == 0 and not is_falling

    def _revive(self, batch: StepBatch, k: int) -> None:
        state = self.state
        is_dead = state.activity.known_dead()
        if is_dead is None:
            return
        u, target = batch.pair()
        is_revived = revive(
            state.sae,
            state.optimizer,
            is_dead,
            u,
            u if target is None else target,
            k,
            state.generator,
            ranks=self.ranks,
        )
        state.activity.revived(is_revived)
