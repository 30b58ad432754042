"""The text that a guarded run goes on with: what was chosen, and the search's cache."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

# Vectors that differ by more of their norm are of another token.
_TOLERANCE = 0.1


class GuardedText:
    """The columns that guarded runs have read so far, in the columns of the runs.

    Attributes:
        positions: the position of each column in its text; -1 at padding.
        ks: the k that each column has; 0 where nothing was chosen.
        kls: the divergence of its prediction.
        cache: what the model keeps of them, for the reference and after it for the rows
            at the k that was chosen; None before the first run, and where a model has
            no such cache.
        n_shared: how many layers of the cache hold one row for all of these, because
            nothing has changed below them; None while that is open.
    """

    def __init__(self, n_rows: int, device: torch.device) -> None:
        """A text without columns."""
        self.positions: Int[Tensor, "batch column"] = torch.empty(
            n_rows, 0, dtype=torch.int64, device=device
        )
        self.ks: Int[Tensor, "batch column"] = self.positions.clone()
        self.kls: Float[Tensor, "batch column"] = torch.empty(n_rows, 0, device=device)
        self.cache: Any = None
        self.n_shared: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns so far."""
        return self.positions.shape[0], self.positions.shape[1]

    @property
    def is_text(self) -> Bool[Tensor, "batch column"]:
        """Which columns are text."""
        return self.positions >= 0

    def extend(self, positions: Int[Tensor, "batch column"]) -> None:
        """Add columns, for which nothing is chosen yet."""
        positions = positions.to(self.positions)
        self.positions = torch.cat([self.positions, positions], dim=1)
        self.ks = torch.cat([self.ks, torch.zeros_like(positions)], dim=1)
        zeros = torch.zeros_like(positions, dtype=self.kls.dtype)
        self.kls = torch.cat([self.kls, zeros], dim=1)

    def by_position(
        self, values: Shaped[Tensor, "batch column"]
    ) -> Shaped[Tensor, "batch pos"]:
        """Values of columns, by position of the text; zeros after a text's end."""
        length = int(self.positions.max()) + 1
        # What is at padding goes to one more position, which is dropped.
        targets = self.positions.where(self.is_text, length)
        table = values.new_zeros(len(values), length + 1)
        return table.scatter(1, targets, values)[:, :length]

    def keep(self, rows: Int[Tensor, " worlds_batch"]) -> None:
        """Go on with these rows of the cache in the place of the present ones."""
        if self.cache is None:
            return
        if not self.n_shared:
            self.cache.reorder_cache(rows)
            return
        for layer in self.cache.layers[self.n_shared :]:
            layer.reorder_cache(rows)

    def share(self, n_layers: int) -> None:
        """Let the first layers of the cache hold one row for all."""
        first = torch.zeros(1, dtype=torch.int64, device=self.positions.device)
        for layer in self.cache.layers[:n_layers]:
            layer.reorder_cache(first)
        self.n_shared = n_layers

    def repeat_spliced(self, n_candidates: int) -> None:
        """Make a copy of the rows after the reference's for every candidate k."""
        if n_candidates == 1:
            return
        rows = torch.arange(2 * len(self.positions), device=self.positions.device)
        reference, spliced = rows.chunk(2)
        self.keep(torch.cat([reference, spliced.repeat(n_candidates)]))

    def is_held_by(self, cache: Any) -> bool:
        """Whether a cache may hold the same text in every row.

        Beam search, for one, moves the rows of a cache. False where that is seen.
        """
        own = _first_tensor(self.cache)
        other = _first_tensor(cache)
        if own is None or other is None:
            return True
        # The rows after the reference's are as the spliced run left its own.
        n_rows = len(self.positions)
        own = (own if self.n_shared else own[n_rows : 2 * n_rows]).float()
        if own.shape != other.shape:
            return True
        error = (other.to(own) - own).norm(dim=-1)
        norms = own.norm(dim=-1)
        bound = _TOLERANCE * torch.maximum(norms, norms.mean())
        return bool((error <= bound).all())


def is_empty(cache: Any) -> bool:
    """Whether a cache that does not say how long it is holds nothing yet."""
    return _first_tensor(cache) is None


def _first_tensor(cache: Any) -> Tensor | None:
    """What the first layer of a cache keeps, rows first; None where it cannot be read.

    In the first layer that is a function of the tokens alone, for most sites.
    """
    layer = next(iter(getattr(cache, "layers", None) or ()), None)
    if layer is None:
        return None
    parts = layer if isinstance(layer, Mapping) else vars(layer)
    tensors = [part for part in parts.values() if isinstance(part, Tensor)]
    return next((tensor for tensor in tensors if tensor.ndim > 2), None)
