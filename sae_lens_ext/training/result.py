"""What a training returns."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from sae_lens_ext.sae import SAE
from sae_lens_ext.training.frozen import release_directions
from sae_lens_ext.training.trainer import Trainer


class Trained(NamedTuple):
    """A trained SAE and how its training went."""

    sae: SAE
    """The SAE, with the activations' mean and scale as constants of its own;
    ``sae.folded()`` moves them into the weights. A transcoder has them there already.
    """
    losses: list[float]
    """The loss of every step: the mean squared error per coordinate of normalised
    activations. Predicting their mean reaches 1. Empty where the checkpoints of a
    finished run were deleted."""
    dead: float
    """Share of features that were not active in the last ``dead_after`` tokens."""
    tokens_per_second: float
    """Training speed, collection of activations in memory not included."""
    held_out_fvu: Mapping[int | None, float] = MappingProxyType({})
    """The fraction of variance unexplained on held-out tokens by k, where there were
    any; None stands for every active feature."""


def trained(trainer: Trainer, held_out_fvu: Mapping[int | None, float]) -> Trained:
    """What a training has come to; the same on all processes that share it."""
    state = trainer.state
    sae = trainer.ranks.whole(state.sae)
    # The clocks of several processes differ.
    (seconds,) = trainer.ranks.from_first([state.seconds])
    release_directions(state.sae)
    return Trained(
        trainer.normalization.finished(sae).eval(),
        state.losses.tolist(),
        state.activity.dead_share(),
        state.n_tokens / seconds if seconds else 0.0,
        held_out_fvu,
    )
