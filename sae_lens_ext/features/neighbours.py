"""Which features write in nearly the same direction."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

# Cosines that are in memory at a time.
_NUMBERS_AT_A_TIME = 1 << 24


def nearest_features(
    W_dec: Float[Tensor, "d_sae d_out"], n: int
) -> tuple[Int[Tensor, "d_sae n"], Float[Tensor, "d_sae n"]]:
    """The features whose decoder rows have the largest cosine with that of each.

    Args:
        W_dec: decoder rows.
        n: neighbours of each; fewer where there are fewer features.

    Returns:
        Their numbers and cosines, the nearest first; the feature itself is left out. A
        row of zeros has cosine 0 with all.
    """
    rows = F.normalize(W_dec.detach().float(), dim=1)
    d_sae = len(rows)
    n = min(n, d_sae - 1)
    numbers = []
    cosines = []
    for features in torch.arange(d_sae, device=rows.device).split(
        max(1, _NUMBERS_AT_A_TIME // d_sae)
    ):
        products = rows[features] @ rows.T
        lines = torch.arange(len(features), device=rows.device)
        products[lines, features] = float("-inf")
        nearest = products.topk(n, dim=1)
        numbers.append(nearest.indices.int().cpu())
        cosines.append(nearest.values.cpu())
    return torch.cat(numbers), torch.cat(cosines)
