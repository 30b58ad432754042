"""A uniform sample of the activations of every feature, without a random state.

Every entry has a number that a hash of its place makes. Those with the highest numbers
are a uniform sample, whatever the order and the batches in which they come, and a run
that goes on after an interruption draws the same one.
"""

from jaxtyping import Int
from torch import Tensor

_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_INCREMENT = 0x9E3779B97F4A7C15


def sample_keys(
    feature: Int[Tensor, " entry"],
    row: Int[Tensor, " entry"],
    position: Int[Tensor, " entry"],
) -> Int[Tensor, " entry"]:
    """A number for each feature at a token, uniform over 64 bits.

    Args:
        feature: of each entry.
        row: of the whole text.
        position: in that row.

    Source: Steele, Lea and Flood 2014 (SplitMix64).
    """
    keys = _mixed(row + _signed(_INCREMENT))
    keys = _mixed(keys ^ position)
    return _mixed(keys ^ feature)


def _mixed(numbers: Tensor) -> Tensor:
    first, second = map(_signed, _MULTIPLIERS)
    numbers = (numbers ^ _shifted(numbers, 30)) * first
    numbers = (numbers ^ _shifted(numbers, 27)) * second
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, n_bits: int) -> Tensor:
    """Shifted to the right; torch would fill negative numbers with ones."""
    return (numbers >> n_bits) & ((1 << (64 - n_bits)) - 1)


def _signed(number: int) -> int:
    """The 64 bits of a number as those of a signed one, as torch has them."""
    return number - (1 << 64) if number >> 63 else number
