"""The file that an interrupted run goes on from.

The only random parts of a run are the first weights and the order of the rows, and both
follow from the seed and the number of the step. A checkpoint is therefore the weights,
the state of the optimizer, and the losses so far, whose number is the number of the
step. It is one safetensors file::

    weights.NAME                a parameter
    optimizer.step.NAME         how often AdamW has changed it
    optimizer.exp_avg.NAME      its two averages, of the parameter's shape
    optimizer.exp_avg_sq.NAME
    losses                      [step], float64

with the seconds spent so far in its metadata.
"""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.atomic import replacing, saving

# What torch's AdamW keeps of a parameter.
_ADAMW = ("step", "exp_avg", "exp_avg_sq")


def write_checkpoint(
    path: Path,
    parameters: Mapping[str, Parameter],
    optimizer: Optimizer,
    losses: list[float],
    seconds: float,
) -> None:
    """Write a checkpoint in the place of the former one, or leave that as it was.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"weights.{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value.contiguous()
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)

    with replacing(path) as temporary, saving(path):
        save_file(tensors, temporary, metadata={"seconds": str(seconds)})


def read_checkpoint(
    path: Path,
    parameters: Mapping[str, Parameter],
    optimizer: Optimizer,
    steps: int,
) -> tuple[list[float], float]:
    """Put weights and optimizer back into the state of a checkpoint.

    Everything in the file is checked before anything is changed.

    Args:
        path: the file.
        parameters: of the model, by name.
        optimizer: torch's AdamW over ``parameters``, in their order.
        steps: of the whole run.

    Returns:
        The losses and the seconds so far.

    Raises:
        FormatError: a checkpoint of another model or of more steps, or a broken file.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
        losses = tensors.pop("losses")
        seconds = float(metadata["seconds"])
        _check_shapes(tensors, parameters)
        _check_losses(losses, tensors, parameters, steps)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise FormatError(
            f"{path} is not a checkpoint of this model, or was cut short ({error}); "
            "delete it to start again"
        ) from error

    # Copied into, since the optimizer and the model hold these very tensors.
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])

    # torch numbers parameters in the order in which the optimizer was given them.
    state = {
        number: {key: tensors[f"optimizer.{key}.{name}"] for key in _ADAMW}
        for number, name in enumerate(parameters)
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return losses.tolist(), seconds


def _check_shapes(
    tensors: Mapping[str, Tensor], parameters: Mapping[str, Parameter]
) -> None:
    expected: dict[str, list[int]] = {}
    for name, parameter in parameters.items():
        shape = list(parameter.shape)
        expected[f"weights.{name}"] = shape
        for key in _ADAMW:
            expected[f"optimizer.{key}.{name}"] = [] if key == "step" else shape

    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise FormatError(f"{missing[0]} is missing")
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise FormatError(f"{unknown[0]} does not belong to it")

    for name, shape in expected.items():
        actual = list(tensors[name].shape)
        if actual != shape:
            raise FormatError(f"{name} is {actual} there and {shape} here")


def _check_losses(
    losses: Tensor,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Parameter],
    steps: int,
) -> None:
    if losses.ndim != 1:
        raise FormatError(
            f"losses is {list(losses.shape)} there and must have one axis"
        )

    counts = {int(tensors[f"optimizer.step.{name}"]) for name in parameters}
    # Every step leaves one loss and changes every parameter once.
    if counts != {len(losses)} or len(losses) > steps:
        counted = ", ".join(str(count) for count in sorted(counts))
        raise FormatError(
            f"it holds {len(losses)} losses after {counted} steps of {steps}"
        )
    if not torch.isfinite(losses).all():
        raise FormatError("it holds losses that are NaN or infinite")
