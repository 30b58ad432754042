"""How long ago every feature was last active."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_lens_ext.sae import SparseCode


class FeatureActivity:
    """Counts, for every feature, the tokens since it was last active.

    Attributes:
        idle: the counts, ``[d_sae]``.
        dead_after: the count from which a feature is dead.
        n_tokens: tokens so far.
    """

    def __init__(
        self, d_sae: int, dead_after: int, device: torch.device | str = "cpu"
    ) -> None:
        """Start before the first token.

        A feature that never is active is dead from the start, even where ``dead_after``
        is longer than the whole training.
        """
        self.dead_after = dead_after
        self.n_tokens = 0
        self.idle: Int[Tensor, " d_sae"] = torch.full(
            (d_sae,), dead_after, dtype=torch.int64, device=device
        )

    def update(self, code: SparseCode) -> None:
        """Count the tokens of a code, one row each."""
        self.count(active_in(code), len(code.values))

    def count(self, is_active: Bool[Tensor, " d_sae"], n_tokens: int) -> None:
        """Count so many tokens, on one or more of which these features are active."""
        self.n_tokens += n_tokens
        self.idle += n_tokens
        self.idle.masked_fill_(is_active, 0)

    def revived(self, is_revived: Bool[Tensor, " d_sae"]) -> None:
        """Start counting anew for some features."""
        self.idle.masked_fill_(is_revived, 0)

    def is_dead(self) -> Bool[Tensor, " d_sae"]:
        """Which features are dead."""
        return self.idle >= self.dead_after

    def known_dead(self) -> Bool[Tensor, " d_sae"] | None:
        """Which features are dead; None while there were too few tokens to say."""
        return self.is_dead() if self.n_tokens >= self.dead_after else None

    def dead_share(self) -> float:
        """Share of features that are dead."""
        return self.is_dead().double().mean().item()


def active_in(code: SparseCode) -> Bool[Tensor, " d_sae"]:
    """Which features are active on any token of a code."""
    # A code may hold zeros, where fewer than k pre-activations are positive. Their
    # features are moved behind the last one, which no device has to wait for.
    active = torch.where(code.values > 0, code.indices, code.d_sae)
    size = code.d_sae + 1
    is_active = torch.zeros(size, dtype=torch.bool, device=code.values.device)
    is_active[active.flatten()] = True
    return is_active[: code.d_sae]
