"""Train one language model; a run that is interrupted goes on where it was, and on a CPU ends with the same bits.

Nothing in it is random but the first weights and the order of the rows, and both follow from the seed and the number of the step. So a
checkpoint is the weights, the optimizer's state, the losses so far and the number of the step.
"""

import contextlib
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.errors import FormatError, NonFinite
from sae_lens_ext.experiments.pretraining.config import PretrainConfig
from sae_lens_ext.experiments.pretraining.text import TokenRows, rows_of_step
from sae_lens_ext.formats.atomic import replacing

# What torch's AdamW keeps of a parameter: how often it was changed, and two averages of the parameter's shape.
_ADAMW = ("step", "exp_avg", "exp_avg_sq")


class Pretrained(NamedTuple):
    """What a run leaves beside the model's weights."""

    losses: list[float]
    """One per step, in nats per token."""
    seconds: float
    """Spent on steps, those before an interruption included."""


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
        model: as ``new_model`` makes it.
        rows: of the text to train on.
        config: how.
        checkpoint: a file, read where it exists and written every ``checkpoint_every`` steps and after the last one; None for none.
        checkpoint_every: see there.
        device: where.
        name: shown in front of the bar.
        progress: whether to show a bar with the loss and the speed.

    Raises:
        FormatError: a checkpoint of another model or of more steps, or a broken one.
        NonFinite: the loss became NaN or infinite.
    """
    moved: Any = model
    moved.to(device).train()
    # Named once where weights are tied.
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=config.lr,
        betas=(0.9, 0.95),
        weight_decay=config.weight_decay,
        fused=True,
    )
    losses: list[float] = []
    before = 0.0
    if checkpoint is not None and checkpoint.exists():
        losses, before = _read(checkpoint, parameters, optimizer, config.steps)
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
            tokens = rows.at(
                rows_of_step(step, len(rows), config.batch_size, config.seed)
            ).to(device)
            for group in optimizer.param_groups:
                group["lr"] = config.lr_at(step)
            with autocast(config, device):
                logits = model(tokens[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(
                logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
            )
            optimizer.zero_grad()
            loss.backward()
            if config.clip:
                torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise NonFinite(
                    f"the loss became {losses[-1]} at step {step + 1} of {config.steps}; try a smaller lr than {config.lr}"
                )
            optimizer.step()
            bar.update(step_tokens)
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            if checkpoint is not None and (
                (step + 1) % checkpoint_every == 0 or step + 1 == config.steps
            ):
                _write(
                    checkpoint,
                    parameters,
                    optimizer,
                    losses,
                    before + time.perf_counter() - start,
                )
    model.eval()
    return Pretrained(losses, before + time.perf_counter() - start)


def autocast(
    config: PretrainConfig, device: torch.device | str
) -> contextlib.AbstractContextManager[Any]:
    """The dtype that the config asks for in matrix products."""
    return (
        torch.autocast(torch.device(device).type, torch.bfloat16)
        if config.dtype == "bfloat16"
        else contextlib.nullcontext()
    )


def _write(
    path: Path,
    parameters: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    losses: list[float],
    seconds: float,
) -> None:
    tensors = {
        f"weights.{name}": parameter.detach() for name, parameter in parameters.items()
    }
    for name, parameter in parameters.items():
        tensors |= {
            f"optimizer.{key}.{name}": value
            for key, value in optimizer.state[parameter].items()
        }
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    with replacing(path) as temporary:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata={"seconds": str(seconds)},
        )


def _read(
    path: Path, parameters: dict[str, Any], optimizer: torch.optim.Optimizer, steps: int
) -> tuple[list[float], float]:
    """Weights and optimizer as they were; the losses and the seconds so far."""
    wanted: dict[str, list[int]] = {}
    for name, parameter in parameters.items():
        shape = list(parameter.shape)
        wanted |= {
            f"weights.{name}": shape,
            **{
                f"optimizer.{key}.{name}": [] if key == "step" else shape
                for key in _ADAMW
            },
        }
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, Tensor] = {
                name: file.get_tensor(name) for name in file.keys()
            }
            losses, seconds = (
                tensors.pop("losses").tolist(),
                float((file.metadata() or {})["seconds"]),
            )
        if different := sorted(wanted.keys() ^ tensors.keys()):
            raise FormatError(
                f"{different[0]} is {'not there' if different[0] in wanted else 'in no checkpoint of it'}"
            )
        for name, shape in wanted.items():
            if list(tensors[name].shape) != shape:
                raise FormatError(
                    f"{name} is {list(tensors[name].shape)} there and {shape} here"
                )
        counted = {int(tensors[f"optimizer.step.{name}"]) for name in parameters}
        if counted != {len(losses)} or len(losses) > steps:
            raise FormatError(
                f"it holds {len(losses)} losses after {', '.join(map(str, sorted(counted)))} steps of {steps}"
            )
        if not all(map(math.isfinite, losses)):
            raise FormatError("it holds losses that are NaN or infinite")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise FormatError(
            f"{path} is no checkpoint of this model, or was cut short ({error}); delete it to start again"
        ) from error
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
    state = {
        number: {key: tensors[f"optimizer.{key}.{name}"] for key in _ADAMW}
        for number, name in enumerate(parameters)
    }
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return losses, seconds
