"""The definition of ``hierarchical_loss``."""

import torch
from torch import Tensor


def hierarchical_loss(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor, target: Tensor, rank_weights: list[float]) -> Tensor:
    """Every prefix's reconstruction by a cumulative sum over ranks; holds ``[tokens, k, d_model]`` several times over."""
    prefixes = b_dec + (values.unsqueeze(-1) * W_dec[indices]).cumsum(dim=1)
    error_per_level = (prefixes - target.unsqueeze(1)).square().mean(dim=(0, 2))
    return error_per_level @ torch.tensor(rank_weights, dtype=error_per_level.dtype, device=error_per_level.device)
