"""What tells one model from another, without reading all of its weights."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.hosts import Host

# Numbers of every parameter that are looked at.
_SAMPLES = 16


def model_facts(host: Host) -> dict[str, Any]:
    """The class of a model, its number of parameters, and a digest of a sample of them.

    Weights that are loaded only when they are used count by their shapes alone.
    """
    model = host.model
    digest = hashlib.sha256()
    n_parameters = 0
    for name, parameter in sorted(model.named_parameters()):
        n_parameters += parameter.numel()
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        if parameter.device.type != "meta" and parameter.numel():
            digest.update(_sample(parameter.detach()))
    return {
        "class": type(model).__name__,
        "parameters": n_parameters,
        "sample": digest.hexdigest()[:16],
    }


def _sample(parameter: Tensor) -> bytes:
    """Some numbers of a parameter, from its first to its last."""
    numbers = parameter.reshape(-1)
    places = torch.linspace(0, len(numbers) - 1, _SAMPLES, dtype=torch.float64)
    sample = numbers[places.long().to(numbers.device)]
    return sample.cpu().double().numpy().tobytes()
