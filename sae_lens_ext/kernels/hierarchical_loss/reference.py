"""The definition of ``hierarchical_loss`` and of its parts."""

import torch
from torch import Tensor

from sae_lens_ext.kernels.hierarchical_loss.task import accumulator


def hierarchical_loss(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    levels: list[int],
    weights: list[float],
) -> Tensor:
    """Compute the loss alone."""
    return hierarchical_parts(values, indices, W_dec, b_dec, target, levels, weights)[0]


def hierarchical_parts(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    levels: list[int],
    weights: list[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute every prefix's reconstruction by a cumulative sum over ranks.

    Holds ``[n, k, d_model]`` several times.

    Returns:
        The loss, the mean squared error per level ``[levels]``, and the reconstruction
        from all features ``[n, d_model]``; all in float32 or wider.
    """
    dtype = accumulator(values, W_dec)
    wide_values = values.to(dtype).unsqueeze(-1)
    # Cast before rows are chosen, so that their gradients are added up in that dtype.
    chosen_rows = W_dec.to(dtype)[indices]

    # [n, k, d_model]
    prefixes = b_dec.to(dtype) + (wide_values * chosen_rows).cumsum(dim=1)
    errors = prefixes - target.to(dtype).unsqueeze(1)

    ranks = torch.tensor(levels, device=values.device) - 1
    per_level = errors.square().mean(dim=(0, 2))[ranks]
    shares = torch.tensor(weights, dtype=per_level.dtype, device=per_level.device)
    # Not a matrix product, which autocast would take to half precision.
    loss = (per_level * shares).sum()
    return loss, per_level, prefixes[:, -1]
