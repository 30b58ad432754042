"""What tells one SAE from another."""

import hashlib
from typing import Any

import torch

from sae_lens_ext.sae import SAE


def sae_facts(sae: SAE) -> dict[str, Any]:
    """The kind and size of an SAE, and a digest of all its numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        numbers = tensor.detach().cpu().contiguous().flatten()
        digest.update(numbers.view(torch.uint8).numpy().tobytes())
    return {
        "kind": sae.config.kind,
        "d_sae": sae.config.d_sae,
        "digest": digest.hexdigest()[:16],
    }
