"""Train an SAE on activations.

1. Centre and scale the activations by two constants of the whole set.
2. In shuffled batches: objective, gradients, Adam with a warm-up and a linear decay at the end.
3. Keep decoder rows at unit norm around every step (``train_step``).
4. Count, for every feature, the tokens since it was last active.
"""

import math
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from sae_lens_ext._arguments import as_integer
from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument, NonFinite
from sae_lens_ext.objectives import HierarchicalTopK, Objective
from sae_lens_ext.sae import SAE, SAEConfig
from sae_lens_ext.training.activations import Activations
from sae_lens_ext.training.step import train_step


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The choices of a training run.

    Attributes:
        d_sae: number of features.
        k: features per token, the largest the SAE will be good at.
        objective: what to minimise.
        epochs: passes over the activations.
        batch_size: tokens per step.
        lr: peak learning rate of Adam.
        warmup: share of the steps over which the learning rate rises from 0.
        decay: share of the steps, at the end, over which it falls to 0.
        dead_after: tokens without being active after which a feature counts as dead; None means one pass over the data.
        seed: of initialisation and shuffling.
    """

    d_sae: int
    k: int
    objective: Objective = field(default_factory=HierarchicalTopK)
    epochs: int = 3
    batch_size: int = 1024
    lr: float = 1.6e-3
    warmup: float = 0.05
    decay: float = 0.3
    dead_after: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Report everything that is wrong at once."""
        sizes = [
            "d_sae",
            "k",
            "epochs",
            "batch_size",
            *(["dead_after"] if self.dead_after is not None else []),
        ]
        counts = [name for name in sizes if (as_integer(getattr(self, name)) or 0) < 1]
        wrong = [
            f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}"
            for name in counts
        ]
        if as_integer(self.seed) is None:
            wrong.append(f"seed must be a whole number, got {self.seed!r}")
        if not isinstance(self.objective, Objective) or isinstance(
            self.objective, type
        ):
            wrong.append(
                f"objective must be an objective such as HierarchicalTopK(), got {self.objective!r}"
            )
        numbers = [
            name
            for name in ("lr", "warmup", "decay")
            if not isinstance(getattr(self, name), int | float)
        ]
        if numbers:
            raise InvalidArgument(
                "; ".join(
                    [
                        *wrong,
                        *(
                            f"{name} must be a number, got {getattr(self, name)!r}"
                            for name in numbers
                        ),
                    ]
                )
            )
        wrong += [
            f"{name} must be from 0 to 1, got {getattr(self, name)}"
            for name in ("warmup", "decay")
            if not 0 <= getattr(self, name) <= 1
        ]
        if not (math.isfinite(self.lr) and self.lr > 0):
            wrong.append(f"lr must be above 0, got {self.lr}")
        if not counts and self.k > self.d_sae:
            wrong.append(f"k={self.k} is more than d_sae={self.d_sae} features")
        if wrong:
            raise InvalidArgument("; ".join(wrong))

    def lr_at(self, step: int, n_steps: int) -> float:
        """The learning rate of a step, counted from 0: linear up, flat, linear down."""
        rising = (step + 1) / max(1.0, self.warmup * n_steps)
        falling = (n_steps - step) / max(1.0, self.decay * n_steps)
        return self.lr * min(1.0, rising, falling)


class Trained(NamedTuple):
    """What a training run leaves behind."""

    sae: SAE
    """With the activations' mean and scale as constants of its own; ``sae.folded()`` moves them into the weights."""
    losses: list[float]
    """One per step: mean squared error per coordinate of normalised activations, so 1 is what their mean alone reaches."""
    dead: float
    """Share of features that were not active in the last ``dead_after`` tokens."""
    tokens_per_second: float
    """Training speed, collection of activations not included."""


def train(
    activations: Activations,
    config: TrainConfig,
    *,
    model_name: str | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Trained:
    """Train an SAE; on a CPU the same call gives the same bits every time.

    Args:
        activations: what to train on, without special tokens and with outliers clipped.
        config: how.
        model_name: kept with the SAE.
        device: where to train.
        progress: whether to show a bar with the loss and the speed.

    Raises:
        InvalidArgument: no activations, or all alike.
        InvalidK: an objective whose levels do not fit k.
        NonFinite: the loss became NaN or infinite.
    """
    tqdm = require("tqdm.auto", "Showing progress").tqdm
    if not isinstance(config, TrainConfig):
        raise InvalidArgument(
            f"config must be a TrainConfig; got a {type(config).__name__}"
        )
    if not isinstance(activations, Activations) or activations.values.ndim != 2:
        raise InvalidArgument(
            "train needs Activations with one row per token; wrap a tensor [token, d_model] in Activations(values, hook_name)"
        )
    n_tokens, d_model = activations.values.shape
    if not n_tokens:
        raise InvalidArgument("no activations to train on")
    generator = torch.Generator().manual_seed(config.seed)
    mean, scale = activations.mean_and_scale()
    sae_config = SAEConfig(
        d_model=d_model,
        d_sae=config.d_sae,
        k=config.k,
        levels=config.objective.levels_at(config.k),
        hook_name=activations.hook_name,
        model_name=model_name,
        exclude_special_tokens=activations.n_special > 0,
    )
    sae = SAE(sae_config, generator=generator).to(device)
    sae.activation_mean, sae.activation_scale = mean.to(device), scale.to(device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=config.lr, fused=True)
    dead_after = n_tokens if config.dead_after is None else config.dead_after
    # A feature that never was active is dead from the start, also where dead_after is longer than the run.
    idle = torch.full((config.d_sae,), dead_after, dtype=torch.int64, device=device)
    n_batches = math.ceil(n_tokens / config.batch_size)
    n_steps, losses = config.epochs * n_batches, []
    start = time.perf_counter()
    with tqdm(
        total=config.epochs * n_tokens,
        desc="training",
        unit="token",
        unit_scale=True,
        disable=not progress,
    ) as bar:
        for epoch in range(config.epochs):
            order = torch.randperm(n_tokens, generator=generator)
            for batch_index, chosen in enumerate(order.split(config.batch_size)):
                step = epoch * n_batches + batch_index
                u = (
                    activations.values[chosen].to(device, torch.float32)
                    - sae.activation_mean
                ) * sae.activation_scale
                for group in optimizer.param_groups:
                    group["lr"] = config.lr_at(step, n_steps)
                loss, code = train_step(sae, optimizer, config.objective, u, config.k)
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise NonFinite(
                        f"the loss became {losses[-1]} at step {step + 1} of {n_steps}; try a smaller lr than {config.lr}"
                    )
                idle += len(chosen)
                idle[code.indices[code.values > 0]] = 0
                bar.update(len(chosen))
                bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
    elapsed = time.perf_counter() - start
    dead = (idle >= dead_after).double().mean().item()
    return Trained(sae.eval(), losses, dead, config.epochs * n_tokens / elapsed)
