"""What an index holds of the text that was read so far; its size does not grow."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_lens_ext.features.best import BestEntries, best_of_each, copy_checked
from sae_lens_ext.features.counts import Counts
from sae_lens_ext.features.entries import Entries, Windows
from sae_lens_ext.features.sampling import sample_keys
from sae_lens_ext.sae import SparseCode


class Sizes(NamedTuple):
    """How much is kept of every feature."""

    contexts: int
    """Of its strongest contexts."""
    sample: int
    """Of a uniform sample of its activations."""
    window: int
    """Tokens on either side of an activation."""


class IndexedBatch(NamedTuple):
    """Rows of a text that were run."""

    ids: Int[Tensor, "row pos"]
    """Their tokens, padded on the right."""
    is_text: Bool[Tensor, "row pos"]
    """False at padding."""
    mask: Bool[Tensor, "row pos"]
    """The tokens that count."""


class IndexState:
    """Counts, strongest contexts and a sample of the activations of every feature.

    Attributes:
        n_rows: rows of the text so far.
        n_tokens: tokens that were encoded so far.
    """

    def __init__(
        self, d_sae: int, largest_k: int, sizes: Sizes, device: torch.device
    ) -> None:
        """No text yet.

        Args:
            d_sae: number of features.
            largest_k: a bound of the ranks.
            sizes: how much to keep.
            device: of the codes.
        """
        self.n_rows = 0
        self.n_tokens = 0
        self._n_beside = sizes.window
        width = 2 * sizes.window + 1
        fields = {
            "row": (torch.int64, ()),
            "position": (torch.int32, ()),
            "ids": (torch.int32, (width,)),
            "activations": (torch.float32, (width,)),
        }
        self._counts = Counts(d_sae, largest_k, device)
        # The score is the activation.
        self._top = BestEntries(d_sae, sizes.contexts, torch.float32, fields, device)
        self._sample = BestEntries(d_sae, sizes.sample, torch.int64, fields, device)

    def add(self, code: SparseCode | None, batch: IndexedBatch) -> None:
        """Take the next rows of the text.

        Args:
            code: of the tokens that count, ``[token, k]``; None where none does.
            batch: the rows.
        """
        first_row = self.n_rows
        self.n_rows += len(batch.ids)
        if code is None:
            return
        self.n_tokens += len(code.values)
        entries = Entries.of(code, batch.mask)
        if not len(entries):
            return
        row = entries.row + first_row
        self._counts.add(entries)
        windows = Windows(entries, batch.ids, batch.is_text, self._n_beside)

        def describe(entry: Tensor) -> dict[str, Tensor]:
            ids, activations = windows.around(entry)
            return {
                "row": row[entry],
                "position": entries.position[entry],
                "ids": ids,
                "activations": activations,
            }

        keys = sample_keys(entries.feature, row, entries.position)
        self._sample.offer(entries.feature, keys, describe)

        # One of a row: the strongest, of those that matter at all.
        chosen = self._top.exceeded(entries.feature, entries.value).nonzero().flatten()
        if not len(chosen):
            return
        group = entries.feature[chosen] * len(batch.ids) + entries.row[chosen]
        best = best_of_each(group, entries.value[chosen], 1)
        chosen = chosen[best.sort().values]
        self._top.offer(
            entries.feature[chosen],
            entries.value[chosen],
            lambda entry: describe(chosen[entry]),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All numbers by name, on the CPU."""
        tensors = {**self._counts.fields}
        for prefix, best in (("top", self._top), ("sample", self._sample)):
            fields = best.fields()
            tensors |= {f"{prefix}.{name}": part for name, part in fields.items()}
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def restore(
        self, tensors: Mapping[str, Tensor], *, n_rows: int, n_tokens: int
    ) -> None:
        """Go on from the numbers of another state that was made alike.

        Raises:
            FormatError: other names or shapes.
        """
        for name, counts in self._counts.fields.items():
            copy_checked(counts, tensors.get(name), name)
        for prefix, best in (("top", self._top), ("sample", self._sample)):
            start = f"{prefix}."
            best.restore(
                {
                    name.removeprefix(start): part
                    for name, part in tensors.items()
                    if name.startswith(start)
                }
            )
        self.n_rows = n_rows
        self.n_tokens = n_tokens
