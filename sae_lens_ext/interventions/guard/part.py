"""Some columns of a run, with its rows repeated for every candidate k."""

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from sae_lens_ext.hosts import TextPositions
from sae_lens_ext.interventions.positions import Window


@dataclass(frozen=True, eq=False)
class Part(Window):
    """Some columns of a window, all rows ``n_copies`` times after each other.

    Selections mean what they mean in the whole window: position -1 is the last of the
    run, and a mask is over the columns of the run.

    Attributes:
        whole: the window.
        columns: those of its columns that this one has.
        n_copies: how often it has the rows.
    """

    whole: Window = field(kw_only=True)
    columns: slice = field(kw_only=True)
    n_copies: int = field(kw_only=True)

    @classmethod
    def of(cls, whole: Window, columns: slice, n_copies: int) -> "Part":
        """The columns of a window; where it acts comes by ``within``."""
        text = TextPositions(
            whole.positions[:, columns].repeat(n_copies, 1),
            whole.lengths[:, columns].repeat(n_copies, 1),
            whole.start + columns.start,
            whole.is_padded,
        )
        return cls(text, whole=whole, columns=columns, n_copies=n_copies)

    def select(self, positions: Any, rows: Any = None) -> Bool[Tensor, "batch pos"]:
        """See ``Window.select``."""
        return self.cut(self.whole.select(positions, rows))

    def values_at(self, values: Tensor, name: str) -> Tensor:
        """See ``Window.values_at``."""
        return self.cut(self.whole.values_at(values, name))

    def part_of(self, source: Tensor, name: str, like: Tensor) -> Tensor:
        """See ``Window.part_of``."""
        return self.cut(self.whole.part_of(source, name, like))

    def cut(self, values: Tensor) -> Tensor:
        """Values by row and column of the whole window, for these ones."""
        repeats = [self.n_copies] + [1] * (values.ndim - 1)
        return values[:, self.columns].repeat(repeats)
