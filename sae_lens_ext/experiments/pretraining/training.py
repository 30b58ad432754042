"""The training of one language model.

A run that was interrupted goes on from its checkpoint, and on a CPU ends with the same
bits as one that was not.
"""

import contextlib
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.errors import NonFinite
from sae_lens_ext.experiments.pretraining.checkpoint import (
    read_checkpoint,
    write_checkpoint,
)
from sae_lens_ext.experiments.pretraining.config import PretrainConfig
from sae_lens_ext.experiments.pretraining.tokens import TokenRows, rows_of_step


class Pretrained(NamedTuple):
    """What a run leaves beside the weights of the model."""

    losses: list[float]
    """[step], in nats per token."""
    seconds: float
    """Time spent on steps, those before an interruption included."""


def pretrain(
    model: BasedForCausalLM,
    rows: TokenRows,
    config: PretrainConfig,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
    device: torch.device | str = "cpu",
    name: str = "training",
    progress: bool = True,
) -> Pretrained:
    """Train a model in place.

    Args:
        model: a new model, from ``new_model``.
        rows: the text to train on.
        config: how to train.
        checkpoint: a file, read if it exists, and written every ``checkpoint_every``
            steps and after the last one. None for no checkpoints.
        checkpoint_every: number of steps between checkpoints.
        device: where to train.
        name: text in front of the progress bar.
        progress: whether to show a bar with the loss and the speed.

    Raises:
        FormatError: a checkpoint of another model or of more steps, or a broken one.
        NonFinite: the loss became NaN or infinite.
    """
    # transformers wraps `to`, and type checkers then take the device for `self`.
    moved: Any = model
    moved.to(device).train()
    # A tied weight is in here once, under one name.
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=config.lr,
        betas=(0.9, 0.95),
        weight_decay=config.weight_decay,
        fused=True,
    )

    losses: list[float] = []
    seconds_before = 0.0
    if checkpoint is not None and checkpoint.exists():
        losses, seconds_before = read_checkpoint(
            checkpoint, parameters, optimizer, config.steps
        )

    start = time.perf_counter()
    step_tokens = config.batch_size * config.seq_len
    with tqdm(
        total=config.tokens,
        initial=len(losses) * step_tokens,
        desc=name,
        unit="token",
        unit_scale=True,
        disable=not progress,
    ) as bar:
        for step in range(len(losses), config.steps):
            numbers = rows_of_step(step, len(rows), config.batch_size, config.seed)
            tokens = rows.at(numbers).to(device)
            losses.append(_train_step(model, tokens, optimizer, config, step))

            bar.update(step_tokens)
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)

            n_done = step + 1
            is_due = n_done % checkpoint_every == 0 or n_done == config.steps
            if checkpoint is not None and is_due:
                seconds = seconds_before + time.perf_counter() - start
                write_checkpoint(checkpoint, parameters, optimizer, losses, seconds)

    model.eval()
    return Pretrained(losses, seconds_before + time.perf_counter() - start)


def autocast(
    config: PretrainConfig, device: torch.device | str
) -> contextlib.AbstractContextManager[Any]:
    """Context in which matrix products have the dtype of the config."""
    if config.dtype == "bfloat16":
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    return contextlib.nullcontext()


def _train_step(
    model: BasedForCausalLM,
    tokens: Int[Tensor, "row pos"],
    optimizer: torch.optim.Optimizer,
    config: PretrainConfig,
    step: int,
) -> float:
    """Change the weights once; returns the loss before that, in nats per token."""
    for group in optimizer.param_groups:
        group["lr"] = config.lr_at(step)

    with autocast(config, tokens.device):
        logits = model(tokens[:, :-1], use_cache=False).logits
    # The softmax over the vocabulary is in float32 whatever the dtype of the products.
    loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

    optimizer.zero_grad()
    loss.backward()
    if config.clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)

    value = loss.item()
    # Before the weights are spoilt, so that a checkpoint never holds such weights.
    if not math.isfinite(value):
        raise NonFinite(
            f"the loss became {value} at step {step + 1} of {config.steps}; "
            f"try a smaller lr than {config.lr}"
        )
    optimizer.step()
    return value
