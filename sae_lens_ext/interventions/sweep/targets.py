"""The next tokens whose predictions a sweep scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts import Host, TokenBatch, as_batch
from sae_lens_ext.interventions.positions import checked_slice

Score = slice | Tensor | Sequence[int] | None
"""Positions whose predictions are scored; see ``sweep_k``."""


@dataclass(frozen=True)
class Targets:
    """The next tokens whose predictions are scored.

    Attributes:
        positions: the positions that predict them.
        tokens: ids of the next tokens.
        counts: which of them count: all but special tokens and padding.
    """

    positions: Int[Tensor, " scored"]
    tokens: Int[Tensor, "batch scored"]
    counts: Bool[Tensor, "batch scored"]

    @classmethod
    def of(
        cls, host: Host, tokens: TokenBatch | Int[Tensor, "batch pos"], score: Score
    ) -> "Targets":
        """The targets in a batch padded on the right, at the positions to score.

        Raises:
            InvalidArgument: rows of one position, an invalid ``score``, or no next
                token that counts.
        """
        if tokens.shape[1] < 2:
            raise InvalidArgument(
                "a single position has no next token to predict; give rows of at least "
                "two positions"
            )
        batch = as_batch(tokens)
        positions = scored_positions(batch.ids, score)
        targets = batch.ids[:, positions + 1]
        special = torch.tensor(
            sorted(host.special_token_ids()), dtype=targets.dtype, device=targets.device
        )
        # The next token must be text of the same row.
        is_text = batch.mask[:, positions + 1]
        counts = is_text & ~torch.isin(targets, special)
        if not counts.any():
            raise InvalidArgument(
                "nothing to score: every next token at the scored positions is a "
                "special token"
            )
        return cls(positions, targets, counts)

    @property
    def n_scored(self) -> int:
        """The number of tokens that count."""
        return int(self.counts.sum())


def scored_positions(
    tokens: Int[Tensor, "batch pos"], score: Score
) -> Int[Tensor, " scored"]:
    """The positions that ``score`` chooses among those that have a next token.

    >>> scored_positions(torch.zeros(2, 6, dtype=torch.int64), slice(None, None, 2))
    tensor([0, 2, 4])

    Raises:
        InvalidArgument: an invalid ``score``, or one that chooses no position.
    """
    predicting = torch.arange(tokens.shape[1] - 1, device=tokens.device)
    if score is None:
        return predicting
    if isinstance(score, slice):
        positions = predicting[checked_slice(score, "score")]
    else:
        positions = _listed_positions(score, predicting)

    if not len(positions):
        raise InvalidArgument(
            f"nothing to score: {score} chooses none of the {len(predicting)} "
            "positions that have a next token"
        )
    return positions.long()


def _listed_positions(
    score: Tensor | Sequence[int], predicting: Int[Tensor, " predicting"]
) -> Tensor:
    """Positions from a list of them, or from a mask over all but perhaps the last."""
    try:
        values = torch.as_tensor(score, device=predicting.device)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidArgument(
            f"score must be a slice, positions, or a boolean mask; got {score!r}"
        ) from None

    n_predicting = len(predicting)
    is_mask = values.dtype == torch.bool
    has_mask_shape = values.ndim == 1 and len(values) in (
        n_predicting,
        n_predicting + 1,
    )
    if is_mask and has_mask_shape:
        return predicting[values[:n_predicting]]

    is_integral = not is_mask and not values.is_floating_point()
    is_valid = is_integral and values.ndim == 1
    if not is_valid or not bool(((values >= 0) & (values < n_predicting)).all()):
        raise InvalidArgument(
            f"score must hold positions from 0 to {n_predicting - 1}, which have a "
            f"next token; got {score}"
        )
    if len(values.unique()) < len(values):
        raise InvalidArgument(
            f"score must name each position once; got {score}, which would count some "
            "of them twice"
        )
    return values
