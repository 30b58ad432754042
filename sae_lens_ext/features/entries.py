"""The active features of a batch of tokens, as flat lists."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.sae import SparseCode


@dataclass(frozen=True, eq=False)
class Entries:
    """One entry for every feature that is active on a token, in the order of the text.

    Attributes:
        feature: number of the feature.
        value: its activation, in float32.
        rank: its rank in the code of the token, 0 for the strongest.
        row: of the batch.
        position: in the text of that row.
    """

    feature: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    rank: Int[Tensor, " entry"]
    row: Int[Tensor, " entry"]
    position: Int[Tensor, " entry"]

    @classmethod
    def of(
        cls,
        code: SparseCode,
        mask: Bool[Tensor, "row pos"],
    ) -> "Entries":
        """The entries of a code of the tokens that a mask chooses.

        Args:
            code: ``[token, k]``, with the tokens in the order of the mask.
            mask: the tokens by row and position of the text.
        """
        values = code.values.float()
        token, rank = (values > 0).nonzero(as_tuple=True)
        rows, positions = mask.nonzero(as_tuple=True)
        return cls(
            code.indices[token, rank].long(),
            values[token, rank],
            rank,
            rows[token],
            positions[token],
        )

    def __len__(self) -> int:
        """The number of entries."""
        return len(self.feature)


class Windows:
    """The tokens around entries, and the activations of the same feature on them."""

    def __init__(
        self,
        entries: Entries,
        ids: Int[Tensor, "row pos"],
        is_text: Bool[Tensor, "row pos"],
        n_beside: int,
    ) -> None:
        """Sort the entries, in which activations are looked up.

        Args:
            entries: all of a batch.
            ids: the tokens of the batch, padded on the right.
            is_text: False at padding.
            n_beside: tokens on either side.
        """
        self._entries = entries
        self._ids = ids
        self._is_text = is_text
        self._offsets = torch.arange(-n_beside, n_beside + 1, device=ids.device)
        keys = self._keys(entries.feature, entries.row, entries.position)
        self._sorted_keys, self._order = keys.sort()

    def around(
        self, entry: Int[Tensor, " chosen"]
    ) -> tuple[Int[Tensor, "chosen window"], Float[Tensor, "chosen window"]]:
        """Token ids, -1 outside of the text, and activations, 0 where inactive."""
        row = self._entries.row[entry].unsqueeze(1)
        position = self._entries.position[entry].unsqueeze(1) + self._offsets
        inside = position.clamp(0, self._ids.shape[1] - 1)
        is_text = (position == inside) & self._is_text[row, inside]
        ids = self._ids[row, inside].where(is_text, -1).int()

        # Where a token has no entry of the feature, the key found is another one.
        feature = self._entries.feature[entry].unsqueeze(1)
        keys = self._keys(feature, row, inside)
        places = torch.searchsorted(self._sorted_keys, keys)
        places = places.clamp(max=len(self._sorted_keys) - 1)
        is_active = is_text & (self._sorted_keys[places] == keys)
        activations = self._entries.value[self._order[places]]
        return ids, activations.where(is_active, 0)

    def _keys(
        self,
        feature: Tensor,
        row: Tensor,
        position: Tensor,
    ) -> Tensor:
        """One number for each feature at a token."""
        n_rows, n_positions = self._ids.shape
        return (feature * n_rows + row) * n_positions + position
