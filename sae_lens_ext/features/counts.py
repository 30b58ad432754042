"""Counts of the activations of every feature: by size, and by rank."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.features.entries import Entries

_OCTAVES = (-16, 24)
_BINS_PER_OCTAVE = 4


def histogram_edges() -> Float[Tensor, " edge"]:
    """Where the bins of every histogram meet: a quarter of an octave each.

    In logarithmic bins, because the size of activations is not known in advance. The
    first bin holds everything below the first edge, the last everything from the last.
    """
    lowest, highest = _OCTAVES
    steps = torch.arange(lowest * _BINS_PER_OCTAVE, highest * _BINS_PER_OCTAVE + 1)
    return torch.exp2(steps.double() / _BINS_PER_OCTAVE).float()


def levels_up_to(largest: int) -> list[int]:
    """The values of k at which it is counted which features survive.

    >>> levels_up_to(24)
    [1, 2, 4, 8, 16, 24]
    """
    ks = [1]
    while ks[-1] < largest:
        ks.append(min(2 * ks[-1], largest))
    return ks


class Counts:
    """What is counted of every feature.

    Attributes:
        fields: ``"histogram"``, ``[d_sae, bins]``; ``"levels"``, ``[d_sae, levels]``:
            activations whose rank is below a value of ``levels_up_to``, and not below
            the one before; ``"smallest_rank"``, ``[d_sae]``, d_sae where never active.
    """

    def __init__(self, d_sae: int, largest_k: int, device: torch.device) -> None:
        """Nothing is counted yet.

        Args:
            d_sae: number of features.
            largest_k: a bound of the ranks.
            device: of the entries.
        """
        self._edges = histogram_edges().to(device)
        n_levels = len(levels_up_to(largest_k))

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.int64, device=device)

        self.fields = {
            "histogram": zeros(d_sae, len(self._edges) + 1),
            "levels": zeros(d_sae, n_levels),
            "smallest_rank": zeros(d_sae) + d_sae,
        }

    def add(self, entries: Entries) -> None:
        """Count the entries of a batch."""
        bins = torch.bucketize(entries.value, self._edges, right=True)
        _count(self.fields["histogram"], entries.feature, bins)
        _count(self.fields["levels"], entries.feature, level_of(entries.rank))
        self.fields["smallest_rank"].scatter_reduce_(
            0, entries.feature, entries.rank, "amin"
        )


def level_of(rank: Int[Tensor, " entry"]) -> Int[Tensor, " entry"]:
    """The first of the values of ``levels_up_to`` that is above a rank, by its number.

    >>> level_of(torch.tensor([0, 1, 2, 3, 4])).tolist()
    [0, 1, 2, 2, 3]
    """
    return torch.frexp(rank.float()).exponent.long()


def _count(
    counts: Int[Tensor, "d_sae bins"],
    feature: Int[Tensor, " entry"],
    bins: Int[Tensor, " entry"],
) -> None:
    places = feature * counts.shape[1] + bins
    counts.view(-1).index_add_(0, places, torch.ones_like(places))
