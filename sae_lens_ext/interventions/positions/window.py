"""The positions of their texts that the run in progress covers.

Users name positions of a text: 0 is its first token, -1 its last so far. A run sees
columns: rows are padded, and in cached generation a run is one new token. A ``Window``
knows the position of every column, and turns selections into masks over columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_lens_ext.errors import ShapeMismatch
from sae_lens_ext.hosts import CallFacts, TextPositions, TokenBatch, text_positions
from sae_lens_ext.interventions.positions.selection import as_mask, mask_along
from sae_lens_ext.kernels import holds_numbers


@dataclass(frozen=True, eq=False)
class Window:
    """The positions of their texts that the run in progress covers.

    >>> window = Window.counted(batch=1, length=2, start=3)
    >>> window.positions, window.select(slice(4, None))
    (tensor([[3, 4]]), tensor([[False,  True]]))

    Attributes:
        text: the position of each column in its text, and the lengths of texts.
        mask: where the splice acts, ``[batch, length]``; None means everywhere in the
            text.
    """

    text: TextPositions
    mask: Bool[Tensor, "batch pos"] | None = None

    @classmethod
    def counted(cls, batch: int, length: int, start: int = 0) -> "Window":
        """The window of rows without padding, after ``start`` columns in a cache."""
        return cls(TextPositions.counted(batch, length, start))

    @classmethod
    def of_batch(cls, tokens: TokenBatch) -> "Window":
        """The window of whole texts."""
        facts = CallFacts(attention_mask=tokens.mask)
        n_rows, n_columns = tokens.shape
        return cls(text_positions(facts, n_rows, n_columns))

    @property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """The position of each column in its text; -1 at padding."""
        return self.text.positions

    @property
    def lengths(self) -> Int[Tensor, "batch pos"]:
        """The length, so far, of the text that each column belongs to."""
        return self.text.lengths

    @property
    def batch(self) -> int:
        """Number of rows of the run."""
        return self.positions.shape[0]

    @property
    def length(self) -> int:
        """Number of columns of the run."""
        return self.positions.shape[1]

    @property
    def start(self) -> int:
        """Number of columns that came before the run's, in a cache."""
        return self.text.start

    @property
    def end(self) -> int:
        """Number of columns up to the end of this run."""
        return self.start + self.length

    @property
    def is_padded(self) -> bool:
        """Whether any column is padding."""
        return self.text.is_padded

    @property
    def is_text(self) -> Bool[Tensor, "batch pos"]:
        """Which columns are text."""
        return self.positions >= 0

    def within(self, mask: Bool[Tensor, "batch pos"] | None) -> "Window":
        """The same window of a splice that acts at ``mask`` only."""
        return replace(self, mask=mask)

    def select(self, positions: Any, rows: Any = None) -> Bool[Tensor, "batch pos"]:
        """A mask of the positions and rows that two frozen selections choose.

        Padding is never chosen. A boolean mask in ``positions`` is over columns.

        Raises:
            ShapeMismatch: a mask of another shape than the run, or a row that the run
                does not have.
        """
        mask = self.is_text
        if positions is not None:
            mask = mask & self._select_positions(positions)
        if rows is None:
            return mask

        # A slice may exceed the batch, as in Python; a number may not.
        outside = []
        if not isinstance(rows, slice):
            outside = [row for row in rows if not -self.batch <= row < self.batch]
        if outside:
            raise ShapeMismatch(
                f"rows names row {outside[0]}; this run has {self.batch}, from 0 on"
            )

        row_mask = mask_along(rows, self.batch)
        return mask & row_mask.to(mask.device).unsqueeze(1)

    def spliced_mask(self, device: torch.device) -> Bool[Tensor, "batch pos"]:
        """Where the splice acts, on ``device``."""
        mask = self.is_text if self.mask is None else self.mask
        return mask.to(device)

    def values_at(self, values: Tensor, name: str) -> Tensor:
        """The value of each column, among values by position.

        Those at padding are of no meaning.

        Args:
            values: by position of the text, ``[pos]`` or ``[batch, pos]``; one row
                serves every row.
            name: of ``values``, for the error.

        Raises:
            ShapeMismatch: another number of rows, or not every position has a value.
        """
        table = values.reshape(-1, values.shape[-1])
        longest = self.end
        # Where numbers cannot be looked at, there is no padding either.
        if holds_numbers(self.lengths):
            longest = int(self.lengths.max())
        if len(table) not in (1, self.batch) or table.shape[1] < longest:
            raise ShapeMismatch(
                f"{name} is {list(values.shape)}; "
                f"this run reaches {[self.batch, longest]} (batch, pos)"
            )
        table = table.expand(self.batch, -1)
        sources = self.positions.clamp(min=0).to(table.device)
        return table.gather(1, sources)

    def part_of(self, source: Tensor, name: str, like: Tensor) -> Tensor:
        """The values of each column in ``source [batch or 1, pos, ...]``.

        Zeros at padding, and at positions after the end of the source.

        Args:
            source: values by position of a whole text; one row serves every row.
            name: of ``source``, for the error.
            like: a tensor of the dtype and device to return.

        Raises:
            ShapeMismatch: another number of rows.
        """
        n_rows, n_positions = source.shape[:2]
        if n_rows not in (1, self.batch):
            raise ShapeMismatch(f"{name} has {n_rows} rows; this run has {self.batch}")

        positions = self.positions.to(like.device)
        # Generated tokens come after the end of a source recorded on the prompt.
        has_value = (positions >= 0) & (positions < n_positions)
        sources = positions.clamp(0, n_positions - 1)
        rows = torch.arange(self.batch, device=like.device).unsqueeze(1)
        if n_rows == 1:
            rows = torch.zeros_like(rows)

        values = source.to(like)[rows, sources]
        trailing = [1] * (values.ndim - 2)
        return values.where(has_value.view(*has_value.shape, *trailing), 0)

    def _select_positions(self, positions: Any) -> Bool[Tensor, "batch pos"]:
        if isinstance(positions, slice):
            return self._select_slice(positions)
        mask = as_mask(positions)
        if mask is None:
            return self._select_numbers(positions)

        # A mask is for the text the run began with: in cached generation it may be
        # shorter, and the tokens generated after its end are outside of it.
        n_columns = mask.shape[-1]
        fits = n_columns == self.end
        if self.start:
            fits = n_columns <= self.end

        has_rows = True
        if mask.ndim == 2:
            has_rows = mask.shape[0] in (1, self.batch)
        if not fits or not has_rows:
            raise ShapeMismatch(
                f"the mask in positions is {list(mask.shape)}; "
                f"this run has {[self.batch, self.end]} (batch, pos)"
            )

        n_generated = self.end - n_columns
        generated = mask.new_zeros(*mask.shape[:-1], n_generated)
        mask = torch.cat([mask, generated], dim=-1)
        here = mask[..., self.start :]
        return here.expand(self.batch, self.length).to(self.positions.device)

    def _select_slice(self, bounds: slice) -> Bool[Tensor, "batch pos"]:
        """A slice of every text, as Python would take it of a list that long."""
        step = 1 if bounds.step is None else bounds.step
        start = self._bound(bounds.start or 0)
        mask = (self.positions >= start) & ((self.positions - start) % step == 0)
        if bounds.stop is None:
            return mask
        return mask & (self.positions < self._bound(bounds.stop))

    def _bound(self, number: int) -> Int[Tensor, "batch pos"]:
        """The position that a bound of a slice means in each column's text."""
        if number >= 0:
            return torch.full_like(self.lengths, number)
        return (self.lengths + number).clamp(min=0)

    def _select_numbers(self, numbers: Sequence[int]) -> Bool[Tensor, "batch pos"]:
        """Positions by number; those below 0 count from the end of every text."""
        listed = torch.tensor(numbers, device=self.positions.device)
        from_start = torch.isin(self.positions, listed[listed >= 0])
        from_end = torch.isin(self.positions - self.lengths, listed[listed < 0])
        return from_start | from_end
