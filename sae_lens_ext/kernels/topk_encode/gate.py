"""The gate of an encoder: which features are active, whatever k is.

A feature is active if its pre-activation lies above a floor: its threshold, or 0 where
that is larger. The others become 0, and come last in order, by feature. NaN is active,
so that it does not vanish.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Numbers of a code in which features are filled in at once.
_FILLED_AT_ONCE = 1 << 20


def floor_of(threshold: Tensor | None, b_enc: Tensor, k: int | None) -> Tensor | None:
    """The floor of every feature ``[d_sae]``; None if k alone decides.

    Without a threshold and without k, the positive features are active.
    """
    if threshold is None:
        return None if k is not None else torch.zeros_like(b_enc)

    # A threshold of NaN lies above nothing and below nothing: nothing is above it.
    floor = torch.where(threshold.isnan(), torch.inf, threshold)
    return floor.clamp_min(0).contiguous()


def gated(pre: Tensor, floor: Tensor) -> Tensor:
    """Pre-activations ``[..., d_sae]``, and 0 for features that are not active."""
    return torch.where(pre <= floor, 0, pre)


def widest(pre: Tensor, floor: Tensor) -> int:
    """The most features that are active in one token, and at least 1."""
    n_below = (pre <= floor).sum(dim=-1)
    # In a batch of zero tokens there is no smallest.
    if not n_below.numel():
        return 1
    return max(1, pre.shape[-1] - int(n_below.min()))


def joined(
    pieces: Sequence[tuple[Tensor, Tensor]], x: Tensor, k: int | None = None
) -> tuple[Tensor, Tensor]:
    """Concatenate codes of different widths, with zeros behind the narrow ones.

    Args:
        pieces: values and indices ``[tokens, width]`` of some tokens after others.
        x: [n, d_model], the activations of all of them.
        k: the width of the result; None means that of the widest piece.
    """
    widths = [values.shape[1] for values, _ in pieces]
    width = max(widths, default=1) if k is None else k
    values = x.new_zeros(len(x), width)
    indices = torch.zeros(values.shape, dtype=torch.int64, device=x.device)

    start = 0
    for piece_values, piece_indices in pieces:
        n, piece_width = piece_values.shape
        tokens = slice(start, start + n)
        values[tokens, :piece_width] = piece_values
        indices[tokens, :piece_width] = piece_indices
        start += n
    return values, indices


def fill_inactive(values: Tensor, indices: Tensor) -> None:
    """Write the first features that are not active behind those that are.

    They are what a stable sort puts there, which sees equal zeros.

    Args:
        values: [n, k], the active ones first; where they are 0, no feature is active.
        indices: [n, k], changed in place.
    """
    n_rows = max(1, _FILLED_AT_ONCE // values.shape[1])
    pieces = zip(values.split(n_rows), indices.split(n_rows), strict=True)
    for piece_values, piece_indices in pieces:
        is_active = piece_values != 0
        if not is_active.all():
            inactive = _first_inactive(is_active, piece_indices)
            piece_indices.copy_(torch.where(is_active, piece_indices, inactive))


def _first_inactive(is_active: Tensor, indices: Tensor) -> Tensor:
    """Features that are not active, in order, from the first place that needs one on.

    At most k features of a token are active or filled in, so those below k suffice.
    """
    n, k = indices.shape
    numbers = torch.arange(k, device=indices.device)

    # One column more than needed, for everything that does not matter.
    features = torch.where(is_active, indices, k).clamp_max(k)
    is_taken = torch.zeros(n, k + 1, dtype=torch.bool, device=indices.device)
    is_taken.scatter_(1, features, True)
    is_free = ~is_taken[:, :k]

    # The feature that is free as the j-th goes to the j-th place behind the active.
    n_active = is_active.sum(dim=1, keepdim=True)
    places = n_active + is_free.cumsum(dim=1) - 1
    places = torch.where(is_free, places, k).clamp_max(k)
    inactive = indices.new_zeros(n, k + 1)
    inactive.scatter_(1, places, numbers.expand(n, k))
    return inactive[:, :k]
