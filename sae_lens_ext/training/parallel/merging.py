"""The first features of a token among those that every slice of a dictionary offers."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Merged(NamedTuple):
    """The code of every token, and where it comes from."""

    values: Float[Tensor, "token k"]
    """Activations, strongest first."""
    features: Int[Tensor, "token k"]
    """Their features, by the numbers that they have in the whole dictionary."""
    ranks: Int[Tensor, "token k"]
    """The process that each comes from."""
    columns: Int[Tensor, "token k"]
    """Its column among those that the process offers."""


def merged(
    values: Float[Tensor, "rank token candidates"],
    features: Int[Tensor, "rank token candidates"],
    k: int,
) -> Merged:
    """The first k of the candidates of all processes.

    The order is that of ``topk_encode``: larger values first, then smaller features.
    Slices of a dictionary follow each other, and the candidates of each are in that
    order; so a stable sort of one slice behind the other keeps it. Only the order of
    zeros, which are features that are not active, may be another.

    Args:
        values: after ReLU; negative numbers are places without a candidate.
        features: by the numbers in the whole dictionary.
        k: at most the number of candidates.
    """
    n_candidates = values.shape[2]
    by_token = values.permute(1, 0, 2).flatten(1)
    order = torch.sort(by_token, dim=1, descending=True, stable=True)
    # Copies, so that what is behind the first k can be freed.
    places = order.indices[:, :k].clone()
    return Merged(
        order.values[:, :k].clone(),
        features.permute(1, 0, 2).flatten(1).gather(1, places),
        places // n_candidates,
        places % n_candidates,
    )
