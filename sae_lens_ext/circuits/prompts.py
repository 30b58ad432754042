"""Clean and corrupted rows of tokens, and the positions whose nodes are looked at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.hosts import Host, TokenBatch, by_position, token_rows
from sae_lens_ext.interventions.positions import Positions, SplicedPositions
from sae_lens_ext.interventions.sites import Placement


def clean_and_corrupted(clean: Any, corrupted: Any = None) -> tuple[Any, Any]:
    """Clean and corrupted rows, from one argument each or from a list of pairs.

    >>> clean_and_corrupted([("The key", "The keys"), ("A dog", "Two dogs")])
    (['The key', 'A dog'], ['The keys', 'Two dogs'])

    Raises:
        InvalidArgument: some of a list are pairs and others not, or corrupted rows
            come twice; or two batches come as one argument.
    """
    if not isinstance(clean, list | tuple):
        return clean, corrupted
    if len(clean) == 2 and all(map(_is_batch, clean)):
        raise InvalidArgument(
            "clean has two batches; pass them as two arguments, clean and corrupted"
        )
    are_pairs = [_is_tuple_of_rows(row) for row in clean]
    if not any(are_pairs):
        return clean, corrupted

    if corrupted is not None:
        raise InvalidArgument(
            "clean has pairs of a clean and a corrupted row, and corrupted has rows as "
            "well; pass corrupted=None, or the clean rows alone"
        )
    for number, (row, is_pair) in enumerate(zip(clean, are_pairs, strict=True)):
        if not is_pair or len(row) != 2:
            kind = f"a tuple of {len(row)}" if is_pair else "one row"
            raise InvalidArgument(
                "a list of pairs must have tuples (clean, corrupted) alone; "
                f"item {number} is {kind}"
            )
    return [first for first, _ in clean], [second for _, second in clean]


@dataclass(frozen=True, eq=False)
class Prompts:
    """Rows to run, each with a corrupted twin of the same length, or without one.

    Attributes:
        batch: the clean rows in the columns that the user has.
        clean: the same rows padded on the right, where columns are positions.
        corrupted: the corrupted rows padded on the right, or None.
        corrupted_batch: the corrupted rows in the user's columns, or None.
    """

    batch: TokenBatch
    clean: TokenBatch
    corrupted: TokenBatch | None
    corrupted_batch: TokenBatch | None

    @classmethod
    def of(cls, host: Host, clean: Any, corrupted: Any) -> "Prompts":
        """Rows from any form of tokens, or from a list of pairs.

        Raises:
            InvalidArgument: not tokens, or a pair of two lengths.
            ShapeMismatch: not as many corrupted rows as clean ones.
        """
        clean, corrupted = clean_and_corrupted(clean, corrupted)
        batch = token_rows(host, clean)
        if corrupted is None:
            return cls(batch, batch.right_padded(), None, None)

        corrupted_batch = token_rows(host, corrupted)
        _check_pairs(batch, corrupted_batch)
        return cls(
            batch,
            batch.right_padded(),
            corrupted_batch.right_padded(),
            corrupted_batch,
        )

    def masks(
        self, host: Host, placed: Mapping[str, Placement], positions: Positions
    ) -> dict[str, Bool[Tensor, "batch pos"]]:
        """Where nodes of each site are looked at, by position of the text.

        By default those are the tokens that the SAE there was trained on, in both rows
        of a pair.

        Raises:
            InvalidArgument: ``positions`` is not a selection, or chooses no token.
            ShapeMismatch: it is a mask of another shape.
        """
        masks = {}
        for name, place in placed.items():
            where = SplicedPositions.of(host, place.sae, positions)
            mask = by_position(where.mask_of(self.batch), self.batch.mask)
            if self.corrupted is not None and positions is None:
                mask = mask & where.mask_of(self.corrupted)
            if not mask.any():
                raise InvalidArgument(
                    f"positions chooses no token of these rows at {name}; positions "
                    "count the tokens of each row's text from 0, and by default the "
                    "special tokens that an SAE was not trained on are left out"
                )
            masks[name] = mask
        return masks


def _is_tuple_of_rows(value: Any) -> bool:
    """Whether a value is a tuple of rows; one of ids is a row itself."""
    return isinstance(value, tuple) and len(value) > 0 and all(map(_is_row, value))


def _is_batch(value: Any) -> bool:
    return isinstance(value, TokenBatch) or getattr(value, "ndim", 0) == 2


def _is_row(value: Any) -> bool:
    return isinstance(value, str | list | tuple) or getattr(value, "ndim", 0) == 1


def _check_pairs(clean: TokenBatch, corrupted: TokenBatch) -> None:
    if len(clean) != len(corrupted):
        raise ShapeMismatch(
            f"clean has {len(clean)} rows and corrupted {len(corrupted)}; give one "
            "corrupted row for every clean one"
        )
    differs = (clean.lengths != corrupted.lengths).nonzero().flatten().tolist()
    if differs:
        row = differs[0]
        raise InvalidArgument(
            f"row {row} has {int(clean.lengths[row])} tokens in clean and "
            f"{int(corrupted.lengths[row])} in corrupted; nodes are compared position "
            "by position, so both texts of a pair need one length in tokens: replace "
            "a word by one of as many tokens, or pass corrupted=None to compare with "
            "zero"
        )
