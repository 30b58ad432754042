"""On which device a model takes its tokens, wherever its weights are.

accelerate loads the weights of a module when the module runs, and moves its inputs to
the device that it runs on. Until then, parameters that were offloaded are on the meta
device, which holds no numbers.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import nn

from sae_lens_ext.errors import UnsupportedHost


def input_device(model: Any, embed: nn.Module | None) -> torch.device | None:
    """The device to put token ids on; None where any will do.

    It is the device of the embedding, if that is known, else of the first module that
    has one.

    Raises:
        UnsupportedHost: the model has no weights.
    """
    is_empty = False
    of_embedding = () if embed is None else embed.modules()
    for part in chain(of_embedding, model.modules()):
        for device in _devices(part):
            if device.type != "meta":
                return device
            is_empty = True

    if is_empty:
        raise UnsupportedHost(
            f"the weights of this {type(model).__name__} are not loaded: all its "
            "parameters are on the meta device, and accelerate does not load them when "
            "it runs; load them first"
        )
    return None


def _devices(module: nn.Module) -> Iterator[torch.device]:
    """Where a module runs, by accelerate, and where its own parameters are."""
    hook: Any = getattr(module, "_hf_hook", None)
    # A chain of hooks is a hook as well.
    for part in getattr(hook, "hooks", (hook,)):
        device = getattr(part, "execution_device", None)
        if device is not None:
            yield _as_device(device)

    for parameter in module.parameters(recurse=False):
        yield parameter.device


def _as_device(device: Any) -> torch.device:
    # A number is that of an accelerator.
    if isinstance(device, int):
        accelerator = torch.accelerator.current_accelerator()
        kind = "cuda" if accelerator is None else accelerator.type
        return torch.device(kind, device)
    return torch.device(device)
