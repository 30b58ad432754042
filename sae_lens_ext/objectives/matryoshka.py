"""Matryoshka: every prefix of the dictionary is an SAE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._fields import FieldChecks
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.kernels import hierarchical_loss
from sae_lens_ext.objectives.batch_topk import BatchTopK
from sae_lens_ext.objectives.groups import by_group
from sae_lens_ext.sae import SAE


@dataclass(frozen=True)
class Matryoshka(BatchTopK):
    """The mean error of reconstructions from nested prefixes of the dictionary.

    The active features are those of ``BatchTopK``, chosen once among all; a prefix uses
    those of them that it has. It nests *which* features exist, where
    ``HierarchicalTopK`` nests how many are used.

    Raises:
        InvalidArgument: a field is out of range.

    Source: Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse
    Autoencoders" (arXiv 2503.17547), equation 3, with the mean over prefixes in place
    of the sum. The default prefixes are those of its dictionaries of 65,536 features:
    2,048, 6,144, 14,336, 30,720 and all.
    """

    prefixes: Sequence[float] = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)
    """Sizes of the nested dictionaries, as rising shares of d_sae that end in 1."""

    def __post_init__(self) -> None:
        """Check the fields; lists become tuples."""
        super().__post_init__()
        with FieldChecks(self) as check:
            check(_prefixes, "prefixes")

    def sizes(self, d_sae: int) -> tuple[int, ...]:
        """The nested dictionaries' numbers of features; at least 1, without repeats.

        >>> Matryoshka().sizes(64), Matryoshka(prefixes=(0.01, 0.5, 1.0)).sizes(9)
        ((2, 6, 14, 30, 64), (1, 4, 9))
        """
        sizes = {max(1, round(share * d_sae)) for share in self.prefixes}
        return tuple(sorted(sizes))

    def _error(
        self, sae: SAE, values: Tensor, indices: Tensor, target: Tensor
    ) -> Tensor:
        """The mean over prefixes, which are levels of a code in the groups' order."""
        sizes = self.sizes(sae.config.d_sae)
        values, indices, levels = by_group(values, indices, sizes)
        return hierarchical_loss(values, indices, sae.W_dec, sae.b_dec, target, levels)


def _prefixes(value: Any, name: str) -> tuple[float, ...]:
    shares = arguments.finite_numbers(value, name)
    is_rising = list(shares) == sorted(set(shares))
    if not shares or not is_rising or shares[0] <= 0 or shares[-1] != 1:
        raise InvalidArgument(
            f"{name} must be shares of the dictionary that rise from above 0 to 1; "
            f"got {list(shares)}"
        )
    return shares
