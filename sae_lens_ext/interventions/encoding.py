"""Codes of some of the tokens in a batch."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext.kernels import holds_numbers
from sae_lens_ext.sae import SAE, SparseCode, TokenStatistics


def encode_at(
    sae: SAE,
    x: Float[Tensor, "batch pos d_model"],
    mask: Bool[Tensor, "batch pos"] | None,
    k: int | None,
    *,
    extrapolate: bool = False,
) -> SparseCode:
    """The code of activations at the tokens of a mask, and zeros elsewhere.

    Other tokens (padding, special tokens) are not encoded: they may hold NaN, and would
    widen a code of every active feature.

    Args:
        sae: the SAE.
        x: the activations.
        mask: the tokens to encode; None for all.
        k: as in ``SAE.encode``.
        extrapolate: as in ``SAE.encode``.
    """
    if mask is None:
        return sae.encode(x, k, extrapolate=extrapolate)
    mask = mask.to(x.device)
    # Without numbers it is not known how many tokens there are.
    if not holds_numbers(mask):
        zeroed = x.where(mask.unsqueeze(-1), 0)
        return sae.encode(zeroed, k, extrapolate=extrapolate).where(mask)
    if mask.all():
        return sae.encode(x, k, extrapolate=extrapolate)

    code = sae.encode(x[mask], k, extrapolate=extrapolate)
    statistics = code.statistics
    if statistics is not None:
        statistics = TokenStatistics(
            _spread(statistics.mean, mask), _spread(statistics.scale, mask)
        )
    return replace(
        code,
        values=_spread(code.values, mask),
        indices=_spread(code.indices, mask),
        statistics=statistics,
    )


def _spread(rows: Tensor, mask: Bool[Tensor, "batch pos"]) -> Tensor:
    """The rows of the tokens of a mask at their places, and zeros elsewhere."""
    zeros = rows.new_zeros(*mask.shape, *rows.shape[1:])
    return torch.index_put(zeros, (mask,), rows)
