"""The definition of ``topk_encode``."""

import torch
from torch import Tensor


def topk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int,
    centre: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Project, keep the k first in order, then apply ReLU."""
    centred = x if centre is None else x - centre
    pre_activations = centred @ W_enc + b_enc

    # Descending and stable is the order: by value, and by feature among equal values.
    # With it, the features of a smaller k are a prefix of those of a larger one.
    ordered = torch.sort(pre_activations, dim=-1, descending=True, stable=True)
    values = ordered.values[..., :k]
    # A copy, so that the indices of all features can be freed.
    indices = ordered.indices[..., :k].clone()
    return values.relu(), indices
