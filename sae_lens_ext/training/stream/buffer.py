"""A buffer from which tokens are taken in random order while others come in."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


class ShuffleBuffer:
    """Holds a bounded number of tokens at every site.

    What is taken is chosen at random among all that is there, and makes room for what
    comes next. So the buffer can be kept full, neighbours in the text end up many steps
    apart, and nothing is moved but what is taken.
    """

    def __init__(self, capacity: int) -> None:
        """An empty buffer; memory is allocated by the first tokens.

        Args:
            capacity: how many tokens it holds.
        """
        self.capacity = capacity
        self._n_tokens = 0
        self._rows: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """The number of tokens that are in it."""
        return self._n_tokens

    @property
    def values(self) -> dict[str, Float[Tensor, "token d"]]:
        """The tokens that are in it, by site; views, not copies."""
        return {site: rows[: self._n_tokens] for site, rows in self._rows.items()}

    def width(self, site: str) -> int:
        """The width of a site's tokens, once there were some."""
        return self._rows[site].shape[1]

    def add(self, values: Mapping[str, Float[Tensor, "token d"]]) -> None:
        """Put tokens in, for which there must be room."""
        n_added = len(next(iter(values.values())))
        end = self._n_tokens + n_added
        for site, part in values.items():
            if site not in self._rows:
                self._rows[site] = part.new_empty(self.capacity, part.shape[1])
            self._rows[site][self._n_tokens : end] = part
        self._n_tokens = end

    def clear(self) -> None:
        """Take everything out."""
        self._n_tokens = 0

    def take(
        self, n_tokens: int, generator: torch.Generator
    ) -> dict[str, Float[Tensor, "token d"]]:
        """Take tokens out, at random; no more than there are."""
        chosen = torch.randperm(self._n_tokens, generator=generator)[:n_tokens]
        n_left = self._n_tokens - n_tokens

        # The tokens at the end that stay move to the places of those that go.
        stays = torch.ones(self._n_tokens, dtype=torch.bool)
        stays[chosen] = False
        holes = chosen[chosen < n_left]
        movers = stays[n_left:].nonzero().flatten() + n_left

        taken = {}
        for site, rows in self._rows.items():
            taken[site] = rows.index_select(0, chosen.to(rows.device))
            moved = rows.index_select(0, movers.to(rows.device))
            rows.index_copy_(0, holes.to(rows.device), moved)
        self._n_tokens = n_left
        return taken
