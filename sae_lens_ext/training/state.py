"""Everything that changes while an SAE is trained."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from sae_lens_ext.objectives import Objective
from sae_lens_ext.sae import SAE
from sae_lens_ext.training.activity import FeatureActivity
from sae_lens_ext.training.losses import Losses


class Best(NamedTuple):
    """The best SAE so far."""

    fvu: float
    """Its held-out fraction of variance unexplained."""
    step: int
    """After how many steps."""
    of: Any = None
    """A sketch of the k and of the held-out tokens that it is the best at."""


@dataclass
class TrainState:
    """Everything that changes while an SAE is trained, but for the stream."""

    sae: SAE
    """The SAE, or transcoder, on activations that are centred and scaled."""
    optimizer: Optimizer
    """Of its weights."""
    objective: Objective
    """A copy of the config's: it may have a state of its own."""
    activity: FeatureActivity
    """When every feature was last active; counts the tokens too."""
    losses: Losses
    """Of all steps; counts them too."""
    generator: torch.Generator
    """Draws the tokens that dead features are pointed to; on the CPU."""
    seconds: float = 0.0
    """Time spent on training, evaluations and checkpoints included."""
    recorded_step: int = 0
    """The step of the last line of metrics."""
    best: Best | None = None
    """The best SAE so far; None before the first evaluation."""

    @property
    def step(self) -> int:
        """The number of steps so far."""
        return len(self.losses)

    @property
    def n_tokens(self) -> int:
        """The number of tokens so far."""
        return self.activity.n_tokens
