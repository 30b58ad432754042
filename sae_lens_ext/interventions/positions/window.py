"""The part of a text that the run in progress covers.

A run in cached generation is one new token, so a ``Window`` says how many positions
came before it, and turns selections that count from the beginning of the text into
masks.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sae_lens_ext.errors import ShapeMismatch
from sae_lens_ext.interventions.positions.selection import as_mask, mask_along


@dataclass(frozen=True)
class Window:
    """The part of a text that the run in progress covers.

    >>> Window(batch=1, length=2, start=3).select(slice(4, None))
    tensor([[False,  True]])

    Attributes:
        batch: number of rows of the run.
        length: number of positions of the run.
        start: number of positions that came before them, in a cache.
        mask: where the splice acts, ``[batch, length]``; None means everywhere.
    """

    batch: int
    length: int
    start: int = 0
    mask: Bool[Tensor, "batch pos"] | None = None

    @property
    def end(self) -> int:
        """Number of positions of the text up to the end of this run."""
        return self.start + self.length

    def within(self, mask: Bool[Tensor, "batch pos"] | None) -> "Window":
        """The same window of a splice that acts at ``mask`` only."""
        return replace(self, mask=mask)

    def select(self, positions: Any, rows: Any = None) -> Bool[Tensor, "batch pos"]:
        """A mask of the positions and rows that two frozen selections choose.

        Raises:
            ShapeMismatch: a mask of another shape than the run, or a row that the run
                does not have.
        """
        if positions is None:
            shape = (self.batch, self.length)
            mask = torch.ones(shape, dtype=torch.bool)
        else:
            mask = self._select_positions(positions)
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
        return mask & row_mask.unsqueeze(1)

    def spliced_mask(self, device: torch.device) -> Bool[Tensor, "batch pos"]:
        """Where the splice acts, on ``device``."""
        if self.mask is not None:
            return self.mask.to(device)
        shape = (self.batch, self.length)
        return torch.ones(shape, dtype=torch.bool, device=device)

    def part_of(self, source: Tensor, name: str, like: Tensor) -> Tensor:
        """This window's part of ``source [batch or 1, pos, ...]``, zeros after its end.

        Args:
            source: values at the positions of a whole text; one row serves every row.
            name: of ``source``, for the error.
            like: a tensor of the dtype and device to return.

        Raises:
            ShapeMismatch: another number of rows.
        """
        n_rows = source.shape[0]
        if n_rows not in (1, self.batch):
            raise ShapeMismatch(f"{name} has {n_rows} rows; this run has {self.batch}")

        part = source[:, self.start : self.end]
        part = part.to(like)
        # Generated tokens come after the end of a source recorded on the prompt.
        n_missing = self.length - part.shape[1]
        if n_missing:
            trailing = part.shape[2:]
            zeros = part.new_zeros(n_rows, n_missing, *trailing)
            part = torch.cat([part, zeros], dim=1)
        # One row serves every row, without a copy.
        return part.expand(self.batch, *part.shape[1:])

    def _select_positions(self, positions: Any) -> Bool[Tensor, "batch pos"]:
        mask = as_mask(positions)
        if mask is None:
            # Over the whole text, because negative numbers count from its end.
            whole = mask_along(positions, self.end)
            here = whole[self.start :]
            return here.expand(self.batch, self.length)

        # A mask is for the text the run began with: in cached generation it may be
        # shorter, and the tokens generated after its end are outside of it.
        n_positions = mask.shape[-1]
        fits = n_positions == self.end
        if self.start:
            fits = n_positions <= self.end

        has_rows = True
        if mask.ndim == 2:
            has_rows = mask.shape[0] in (1, self.batch)
        if not fits or not has_rows:
            raise ShapeMismatch(
                f"the mask in positions is {list(mask.shape)}; "
                f"this run has {[self.batch, self.end]} (batch, pos)"
            )

        n_generated = self.end - n_positions
        generated = mask.new_zeros(*mask.shape[:-1], n_generated)
        mask = torch.cat([mask, generated], dim=-1)
        here = mask[..., self.start :]
        return here.expand(self.batch, self.length)
