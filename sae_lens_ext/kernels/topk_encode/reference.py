"""The definition of ``topk_encode``."""

import torch
from torch import Tensor

from sae_lens_ext.kernels.topk_encode import gate


def topk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int | None,
    centre: Tensor | None = None,
    threshold: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Project, gate, keep the first k in order, then apply ReLU."""
    centred = x if centre is None else x - centre
    pre_activations = centred @ W_enc + b_enc

    floor = gate.floor_of(threshold, b_enc, k)
    if floor is not None:
        # A comparison passes no gradient to the threshold.
        pre_activations = gate.gated(pre_activations, floor)
        k = gate.widest(pre_activations, floor) if k is None else k

    # Descending and stable is the order: by value, and by feature among equal values.
    # With it, the features of a smaller k are a prefix of those of a larger one.
    ordered = torch.sort(pre_activations, dim=-1, descending=True, stable=True)
    values = ordered.values[..., :k]
    # A copy, so that the indices of all features can be freed.
    indices = ordered.indices[..., :k].clone()
    return values.relu(), indices
