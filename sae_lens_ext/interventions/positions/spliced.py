"""The positions of its runs that a splice acts on."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts import Host, TokenBatch, as_batch
from sae_lens_ext.interventions.positions.selection import Positions, frozen_positions
from sae_lens_ext.interventions.positions.window import Window
from sae_lens_ext.sae import SAE


@dataclass(frozen=True)
class SplicedPositions:
    """The positions of its runs that a splice acts on.

    By default those are all positions except those of tokens that the SAE was not
    trained on, or, where there is no SAE, those of special tokens.

    Attributes:
        chosen: the user's choice, frozen; None means everywhere.
        left_alone: ids of tokens where the splice does not act.
    """

    chosen: Any
    left_alone: tuple[int, ...]

    @classmethod
    def of(
        cls, host: Host, sae: SAE | None, positions: Positions
    ) -> "SplicedPositions":
        """The user's choice, checked; without one, what the SAE's config says.

        Raises:
            InvalidArgument: ``positions`` is not a selection; or the SAE says that
                special tokens were left out, and the model does not say which tokens
                are special.
        """
        frozen = frozen_positions(positions)
        # "all" is frozen to None, too, and leaves no token alone.
        if positions is not None:
            return cls(frozen, ())

        if sae is None:
            left_alone = known_special_ids(host, "edits")
        else:
            left_alone = _untrained_token_ids(host, sae)
        return cls(frozen, left_alone)

    @property
    def are_all(self) -> bool:
        """Whether the splice acts everywhere, on any tokens."""
        return self.chosen is None and not self.left_alone

    def mask(
        self, window: Window, tokens: Int[Tensor, "rows columns"] | None
    ) -> Bool[Tensor, "batch pos"] | None:
        """Where the splice acts in the run in progress, or None for everywhere.

        Raises:
            ShapeMismatch: the choice is a mask of another shape than the run.
            InvalidArgument: token ids are to be left alone, and the run was not given
                any.
        """
        if self.are_all:
            return window.is_text if window.is_padded else None
        if self.chosen is not None:
            return window.select(self.chosen)

        # A run may be given embeddings in place of token ids.
        if tokens is None or tokens.shape != (window.batch, window.length):
            raise InvalidArgument(
                "special tokens are left alone here, and this run was not given token "
                "ids to find them by; pass positions='all', a slice or a mask"
            )
        left_alone = torch.tensor(self.left_alone, device=tokens.device)
        is_text = window.is_text.to(tokens.device)
        return is_text & ~torch.isin(tokens, left_alone)

    def mask_of(
        self, tokens: TokenBatch | Int[Tensor, "batch pos"]
    ) -> Bool[Tensor, "batch pos"]:
        """Where the splice acts in a run of these whole texts, in their columns."""
        batch = as_batch(tokens)
        mask = self.mask(Window.of_batch(batch), batch.ids)
        if mask is None:
            return batch.mask
        return mask.to(batch.ids.device)


def known_special_ids(host: Host, purpose: str) -> tuple[int, ...]:
    """Ids of special tokens, in ascending order; warns where none are known.

    Args:
        host: the model.
        purpose: what would leave them alone, for the warning.
    """
    special_ids = tuple(sorted(host.special_token_ids()))
    if not special_ids:
        warnings.warn(
            f"{purpose} leave special tokens alone by default, and neither a config "
            f"nor a tokenizer of this {type(host.model).__name__} says which those "
            "are: BOS and padding, where there are any, are treated as text; pass "
            "positions= to choose",
            stacklevel=4,
        )
    return special_ids


def _untrained_token_ids(host: Host, sae: SAE) -> tuple[int, ...]:
    excluded = sae.config.exclude_special_tokens
    # The config names the ids, or says only whether special tokens were left out.
    if isinstance(excluded, tuple):
        return excluded
    if not excluded:
        return ()

    special = host.special_token_ids()
    if not special:
        raise InvalidArgument(
            "this SAE was trained without special tokens, and the model has neither a "
            "tokenizer nor token ids in its config to tell which those are; pass "
            "positions='all', a slice or a mask"
        )
    return tuple(sorted(special))
