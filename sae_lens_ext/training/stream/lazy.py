"""Batches whose tokens are read when they are asked for.

Processes that share a training take the same batches, and each needs a part of the rows
of most of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# The underscores: pieces have lengths, and sites have widths, of their own.
Values = Mapping[str, Float[Tensor, "_token _d"]]


class Piece(NamedTuple):
    """Some tokens of one source."""

    rows: Int[Tensor, " token"]
    """Their numbers there."""
    read: Callable[[Int[Tensor, " token"]], Values]
    """Gives the activations of such numbers, by site."""


class LazyBatch(Mapping[str, Tensor]):
    """Activations of the same tokens, by site, as they are asked for.

    Attributes:
        n_tokens: how many tokens these are.
    """

    def __init__(self, sites: Sequence[str], pieces: Sequence[Piece]) -> None:
        """Read nothing yet.

        Args:
            sites: names of the sites.
            pieces: the tokens, in order; at least one piece, which may be empty.
        """
        self._sites = tuple(sites)
        self._pieces = pieces
        # Not a cached_property: that of Python 3.11 holds a lock, with which nnsight
        # cannot send this package to another process.
        self._all: Values | None = None
        self.n_tokens = sum(len(piece.rows) for piece in pieces)

    def part(self, rows: slice) -> Values:
        """The activations of some consecutive tokens, by site."""
        start, end, _ = rows.indices(self.n_tokens)
        if (start, end) == (0, self.n_tokens):
            return self._whole()

        parts = []
        for piece in self._pieces:
            wanted = piece.rows[max(0, start) : max(0, end)]
            if len(wanted):
                parts.append(piece.read(wanted))
            start -= len(piece.rows)
            end -= len(piece.rows)
        if not parts:
            first = self._pieces[0]
            parts.append(first.read(first.rows[:0]))
        return self._joined(parts)

    def _whole(self) -> Values:
        if self._all is None:
            self._all = self._joined([piece.read(piece.rows) for piece in self._pieces])
        return self._all

    def _joined(self, parts: Sequence[Values]) -> Values:
        if len(parts) == 1:
            return parts[0]
        return {site: torch.cat([part[site] for part in parts]) for site in self._sites}

    def __getitem__(self, site: str) -> Tensor:
        """The activations of all tokens at a site."""
        return self._whole()[site]

    def __iter__(self) -> Iterator[str]:
        """The names of the sites."""
        return iter(self._sites)

    def __len__(self) -> int:
        """The number of sites."""
        return len(self._sites)
