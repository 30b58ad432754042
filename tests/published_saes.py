"""Writes SAEs in the layouts of others, small and random, for tests to change."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

D_MODEL = 6
D_SAE = 20


def matrices(**changes):
    """The weights and thresholds of a JumpReLU SAE; ``...`` leaves one out."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "W_enc": (D_MODEL, D_SAE),
        "b_enc": (D_SAE,),
        "W_dec": (D_SAE, D_MODEL),
        "b_dec": (D_MODEL,),
        "threshold": (D_SAE,),
    }
    tensors = {name: torch.randn(shapes[name], generator=generator) for name in shapes}
    tensors["threshold"].abs_()
    tensors |= changes
    return {name: tensor for name, tensor in tensors.items() if tensor is not ...}


def linear_layers(encoder="encoder", decoder="decoder"):
    """The weights and biases of two linear layers of torch, by their names."""
    tensors = matrices()
    return {
        f"{encoder}.weight": tensors["W_enc"].T.contiguous(),
        f"{encoder}.bias": tensors["b_enc"],
        f"{decoder}.weight": tensors["W_dec"].T.contiguous(),
        f"{decoder}.bias": tensors["b_dec"],
    }


def write(path, content):
    """Write a file in the format that its name says; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        arrays = {name: tensor.numpy() for name, tensor in content.items()}
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file(content, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif path.suffix == ".yaml":
        path.write_text(content)
    else:
        torch.save(content, path)
    return path
