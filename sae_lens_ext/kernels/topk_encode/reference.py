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
    """Project, keep the k largest in falling order, then apply ReLU."""
    centred = x if centre is None else x - centre
    pre_activations = centred @ W_enc + b_enc

    # sorted=True is part of the meaning: with it, the features of a smaller k are a
    # prefix of those of a larger one.
    values, indices = torch.topk(pre_activations, k, dim=-1, sorted=True)
    return values.relu(), indices
