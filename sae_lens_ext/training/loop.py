"""Train an SAE on activations.

1. Centre and scale the activations by two constants of the whole set.
2. In shuffled batches: objective, gradients, Adam with a warm-up and a linear decay at
   the end.
3. Keep decoder rows at unit norm around every step (``train_step``).
4. Count, for every feature, the tokens since it was last active.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument, NonFinite
from sae_lens_ext.objectives import HierarchicalTopK, Objective
from sae_lens_ext.sae import SAE, SAEConfig
from sae_lens_ext.training.activations import Activations
from sae_lens_ext.training.step import train_step


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The size of an SAE and how it is trained."""

    d_sae: int
    """Number of features."""
    k: int
    """Active features per token, the largest k that the SAE is trained for."""
    objective: Objective = field(default_factory=HierarchicalTopK)
    """The loss to minimise."""
    epochs: int = 3
    """Passes over the activations."""
    batch_size: int = 1024
    """Tokens per step."""
    lr: float = 1.6e-3
    """Peak learning rate of Adam."""
    warmup: float = 0.05
    """Share of the steps, at the start, over which the learning rate rises from 0."""
    decay: float = 0.3
    """Share of the steps, at the end, over which the learning rate falls to 0."""
    dead_after: int | None = None
    """Tokens without being active after which a feature counts as dead; None takes one
    pass over the data."""
    seed: int = 0
    """Seed of the initial weights and of the order of the tokens."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InvalidArgument: one or more fields are invalid; the message names them all.
        """
        with FieldChecks(self) as check:
            check(arguments.positive_int, "d_sae", "k", "epochs", "batch_size")
            check(arguments.positive_int, "dead_after", optional=True)
            check(arguments.integer, "seed")
            check(_objective, "objective")
            check(arguments.finite, "lr", above=0)
            check(arguments.fraction, "warmup", "decay")
        with FieldChecks(self) as check:
            check.that(
                self.k <= self.d_sae,
                f"k must be at most d_sae={self.d_sae}; got {self.k}",
            )

    def lr_at(self, step: int, n_steps: int) -> float:
        """The learning rate of a step, counted from 0: linear up, flat, linear down."""
        # At least one step, so that no share divides by 0.
        n_rising = max(1.0, self.warmup * n_steps)
        n_falling = max(1.0, self.decay * n_steps)
        rising = (step + 1) / n_rising
        falling = (n_steps - step) / n_falling
        return self.lr * min(1.0, rising, falling)


class Trained(NamedTuple):
    """A trained SAE and how its training went."""

    sae: SAE
    """The SAE, with the activations' mean and scale as constants of its own;
    ``sae.folded()`` moves them into the weights."""
    losses: list[float]
    """The loss of every step: the mean squared error per coordinate of normalised
    activations. Predicting their mean reaches 1."""
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
        config: the size of the SAE and how to train it.
        model_name: name of the model, kept in the SAE's config.
        device: where to train.
        progress: whether to show a bar with the loss and the speed.

    Raises:
        InvalidArgument: there are no activations, or they are all equal.
        InvalidK: the objective's levels do not fit k.
        NonFinite: the loss became NaN or infinite.
    """
    tqdm = require("tqdm.auto", "Showing progress").tqdm
    _check_inputs(activations, config)
    generator = torch.Generator().manual_seed(config.seed)
    sae = _new_sae(activations, config, model_name, generator, device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=config.lr, fused=True)

    n_tokens = len(activations.values)
    n_batches = math.ceil(n_tokens / config.batch_size)
    n_steps = config.epochs * n_batches
    dead_after = config.dead_after
    if dead_after is None:
        dead_after = n_tokens

    # Tokens since a feature was last active. A feature that never was active is dead
    # from the start, even where dead_after is longer than the whole training.
    idle = torch.full((config.d_sae,), dead_after, dtype=torch.int64, device=device)

    losses: list[float] = []
    start = time.perf_counter()
    with tqdm(
        total=config.epochs * n_tokens,
        desc="training",
        unit="token",
        unit_scale=True,
        disable=not progress,
    ) as bar:
        for step, rows in enumerate(_shuffled_batches(n_tokens, config, generator)):
            # Batch by batch, so that activations may be larger than the device.
            x = activations.values[rows]
            x = x.to(device, torch.float32)
            u = (x - sae.activation_mean) * sae.activation_scale

            for group in optimizer.param_groups:
                group["lr"] = config.lr_at(step, n_steps)
            loss, code = train_step(sae, optimizer, config.objective, u, config.k)

            step_loss = loss.item()
            losses.append(step_loss)
            if not math.isfinite(step_loss):
                raise NonFinite(
                    f"the loss became {step_loss} at step {step + 1} of {n_steps}; "
                    f"try a smaller lr than {config.lr}"
                )

            # A code may hold zeros, where fewer than k pre-activations are positive.
            idle += len(rows)
            is_active = code.values > 0
            idle[code.indices[is_active]] = 0

            bar.update(len(rows))
            bar.set_postfix(loss=f"{step_loss:.4f}", refresh=False)

    elapsed = time.perf_counter() - start
    tokens_per_second = config.epochs * n_tokens / elapsed
    is_dead = idle >= dead_after
    dead = is_dead.double().mean().item()
    return Trained(sae.eval(), losses, dead, tokens_per_second)


def _objective(value: Any, name: str) -> Objective:
    # The class itself passes isinstance of a runtime-checkable protocol.
    if not isinstance(value, Objective) or isinstance(value, type):
        raise InvalidArgument(
            f"{name} must be an objective such as HierarchicalTopK(); got {value!r}"
        )
    return value


def _check_inputs(activations: Activations, config: TrainConfig) -> None:
    if not isinstance(config, TrainConfig):
        raise InvalidArgument(
            f"config must be a TrainConfig; "
            f"got an object of type {type(config).__name__}"
        )
    if not isinstance(activations, Activations) or activations.values.ndim != 2:
        raise InvalidArgument(
            "train needs Activations with one row per token; wrap a tensor "
            "[token, d_model] in Activations(values, hook_name)"
        )
    if not len(activations.values):
        raise InvalidArgument("no activations to train on")


def _new_sae(
    activations: Activations,
    config: TrainConfig,
    model_name: str | None,
    generator: torch.Generator,
    device: torch.device | str,
) -> SAE:
    """An SAE with random weights that normalises activations as they are here."""
    mean, scale = activations.mean_and_scale()
    sae_config = SAEConfig(
        d_model=activations.values.shape[1],
        d_sae=config.d_sae,
        k=config.k,
        levels=config.objective.levels_at(config.k),
        hook_name=activations.hook_name,
        model_name=model_name,
        exclude_special_tokens=activations.n_special > 0,
    )
    sae = SAE(sae_config, generator=generator).to(device)
    sae.activation_mean = mean.to(device)
    sae.activation_scale = scale.to(device)
    return sae


def _shuffled_batches(
    n_tokens: int, config: TrainConfig, generator: torch.Generator
) -> Iterator[Int[Tensor, " batch"]]:
    """The rows of every step; each epoch has an order of its own."""
    for _ in range(config.epochs):
        order = torch.randperm(n_tokens, generator=generator)
        yield from order.split(config.batch_size)
