"""A token as an SAE sees it: a few features and how strongly each is active."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext._arguments import as_integer
from sae_lens_ext.errors import InvalidArgument, InvalidK, ShapeMismatch
from sae_lens_ext.kernels import holds_numbers


@dataclass(frozen=True, eq=False)
class SparseCode:
    """The k strongest features of each token, strongest first, so that a smaller k is a prefix of a larger one.

    >>> code = SparseCode(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[4, 0, 2]]), d_sae=6)
    >>> code.prefix(1).indices.tolist(), code.dense().tolist(), code.l0().tolist()
    ([[4]], [[1.0, 0.0, 0.0, 0.0, 3.0, 0.0]], [2])

    Attributes:
        values: activations, none below 0; a token with fewer than k active features ends in zeros.
        indices: the feature each value belongs to, from 0 to d_sae - 1.
        d_sae: how many features the SAE has.
    """

    values: Float[Tensor, "*batch k"]
    indices: Int[Tensor, "*batch k"]
    d_sae: int

    def __post_init__(self) -> None:
        """Refuse values and indices that do not fit together, or are none."""
        if not isinstance(self.values, Tensor) or not isinstance(self.indices, Tensor):
            raise InvalidArgument(
                f"a code is made of tensors; got {type(self.values).__name__} and {type(self.indices).__name__}"
            )
        if self.indices.is_floating_point() or self.indices.dtype == torch.bool:
            raise InvalidArgument(
                f"the indices of a code are whole numbers; got {self.indices.dtype}"
            )
        if self.values.ndim < 1 or self.values.shape != self.indices.shape:
            raise ShapeMismatch(
                f"values and indices of a code must have one shape [..., k]; got {list(self.values.shape)} and {list(self.indices.shape)}"
            )

    @property
    def k(self) -> int:
        """How many features each token keeps, zeros included."""
        return self.values.shape[-1]

    def prefix(self, k: int) -> "SparseCode":
        """The code that encoding with this smaller k would have given, as a view of this one.

        Raises:
            InvalidK: k is not a whole number from 1 to this code's k.
        """
        length = as_integer(k)
        if length is None or not 1 <= length <= self.k:
            raise InvalidK(
                f"a prefix of this code needs a whole number k from 1 to {self.k}; got {k!r}: to go higher, encode again"
            )
        return SparseCode(
            self.values[..., :length], self.indices[..., :length], self.d_sae
        )

    def dense(self) -> Float[Tensor, "*batch d_sae"]:
        """One column per feature, zero where it is not active. The only thing here whose size grows with d_sae."""
        if (
            self.indices.numel()
            and holds_numbers(self.indices)
            and int(self.indices.max()) >= self.d_sae
        ):
            raise InvalidArgument(
                f"this code names feature {int(self.indices.max())}; d_sae={self.d_sae}"
            )
        zeros = self.values.new_zeros(*self.values.shape[:-1], self.d_sae)
        return zeros.scatter_add(-1, self.indices, self.values)

    def l0(self) -> Int[Tensor, "*batch"]:
        """How many features are active in each token: at most k, fewer where pre-activations ran out of positive ones."""
        return (self.values > 0).sum(dim=-1)

    def where(self, mask: Bool[Tensor, "*batch"]) -> "SparseCode":
        """The same code, with the tokens outside ``mask`` set to zeros."""
        return SparseCode(
            self.values.where(mask.to(self.values.device).unsqueeze(-1), 0),
            self.indices,
            self.d_sae,
        )

    def detach(self) -> "SparseCode":
        """The same code, without a graph behind its values."""
        return SparseCode(self.values.detach(), self.indices, self.d_sae)

    def to(self, device: torch.device | str) -> "SparseCode":
        """The same code on another device."""
        return SparseCode(self.values.to(device), self.indices.to(device), self.d_sae)

    def __getitem__(self, token: object) -> "SparseCode":
        """The codes of some tokens: indexes the leading axes, never the features.

        >>> SparseCode(torch.ones(2, 5, 3), torch.zeros(2, 5, 3, dtype=torch.int64), d_sae=4)[0, 1:3].values.shape
        torch.Size([2, 3])
        """
        index: Any = token if isinstance(token, tuple) else (token,)
        if not any(item is Ellipsis for item in index):
            index = (*index, Ellipsis)
        index = (*index, slice(None))
        return SparseCode(self.values[index], self.indices[index], self.d_sae)

    def __repr__(self) -> str:
        """Shapes, not numbers."""
        return f"SparseCode(batch={list(self.values.shape[:-1])}, k={self.k}, d_sae={self.d_sae})"
