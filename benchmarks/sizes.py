"""How large the batches and dictionaries of the benchmarks are."""

from typing import NamedTuple

import torch


class Sizes(NamedTuple):
    """Of a batch and a dictionary."""

    n: int
    """Tokens."""
    d_model: int
    d_sae: int
    dtype: torch.dtype
    tolerance: float
    """Of the comparison with the definition."""

    def described(self) -> str:
        """The sizes for the head of a table."""
        return (
            f"N={self.n}, d_model={self.d_model}, d_sae={self.d_sae}, "
            f"{dtype_name(self.dtype)}"
        )


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype's name without its module."""
    return str(dtype).removeprefix("torch.")
