"""Activations in memory as a stream: a few passes, each in an order of its own."""

import hashlib
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.training.activations import Activations
from sae_lens_ext.training.stream import SiteStatistics, StreamState


class Epochs:
    """A stream of activations that are in memory; see ``ActivationStream``.

    Each epoch ends in a batch that is as short as it must be.
    """

    def __init__(
        self,
        activations: Activations,
        epochs: int,
        generator: torch.Generator,
        model_name: str | None = None,
    ) -> None:
        """Make a stream.

        Args:
            activations: one row per token.
            epochs: how often to go through them.
            generator: draws the orders.
            model_name: name of the model.
        """
        self.sites = (activations.hook_name,)
        self.model_name = model_name
        self.excludes_special_tokens = activations.n_special > 0
        self._activations = activations
        self._epochs = epochs
        self._generator = generator
        # Nothing is drawn before the first batch.
        self._epoch = -1
        self._position = 0
        self._order: Int[Tensor, " token"] = torch.zeros(0, dtype=torch.int64)
        self._state_before = generator.get_state()

    @property
    def n_tokens(self) -> int:
        """Tokens of all epochs."""
        return self._epochs * len(self._activations.values)

    @property
    def counts(self) -> Mapping[str, int]:
        """See ``ActivationStream.counts``."""
        n_whole = max(0, self._epoch)
        return {
            "given": n_whole * len(self._activations.values) + self._position,
            "special": self._activations.n_special,
            "outliers": self._activations.n_outliers,
        }

    def n_batches(self, batch_size: int) -> int:
        """The number of batches of all epochs."""
        n_tokens = len(self._activations.values)
        return self._epochs * -(-n_tokens // batch_size)

    def width(self, site: str) -> int:
        """See ``ActivationStream.width``."""
        return self._activations.values.shape[1]

    def statistics(self) -> Mapping[str, SiteStatistics]:
        """See ``ActivationStream.statistics``; here they are those of all tokens."""
        mean, scale = self._activations.mean_and_scale()
        no_limit = torch.tensor(torch.inf)
        return {self.sites[0]: SiteStatistics(mean, scale, no_limit)}

    def first_tokens(self, site: str) -> Float[Tensor, "token d"]:
        """See ``RemembersFirst.first_tokens``: all of them."""
        return self._activations.values

    def next_batch(self, n_tokens: int) -> Mapping[str, Float[Tensor, "token d"]]:
        """See ``ActivationStream.next_batch``."""
        is_over = self._position == len(self._order)
        if is_over and self._epoch + 1 < self._epochs:
            self._start_epoch()

        rows = self._order[self._position : self._position + n_tokens]
        self._position += len(rows)
        return {self.sites[0]: self._activations.values[rows]}

    def state(self) -> StreamState:
        """See ``ActivationStream.state``."""
        facts = {
            "activations": self._fingerprint(),
            "epoch": self._epoch,
            "position": self._position,
        }
        return StreamState(facts, {"generator": self._state_before})

    def restore(self, state: StreamState) -> None:
        """See ``ActivationStream.restore``."""
        if state.facts.get("activations") != self._fingerprint():
            raise FormatError(
                "the run was on other activations in memory; give those, or another "
                "folder"
            )
        self._generator.set_state(state.tensors["generator"])
        self._epoch = state.facts["epoch"]
        if self._epoch >= 0:
            self._epoch -= 1
            self._start_epoch()
        self._position = state.facts["position"]

    def _fingerprint(self) -> str:
        """A digest of some of the activations, and of how many there are."""
        values = self._activations.values
        every = max(1, len(values) // 100)
        rows = values[::every].float().contiguous().cpu().numpy()
        return f"{list(values.shape)} {hashlib.sha256(rows.tobytes()).hexdigest()}"

    def _start_epoch(self) -> None:
        self._epoch += 1
        self._position = 0
        self._state_before = self._generator.get_state()
        self._order = torch.randperm(
            len(self._activations.values), generator=self._generator
        )
