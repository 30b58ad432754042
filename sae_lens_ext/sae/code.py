"""A token as an SAE sees it: a few features and how strongly each is active."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument, InvalidK, ShapeMismatch
from sae_lens_ext.kernels import holds_numbers
from sae_lens_ext.sae.normalization import TokenStatistics


@dataclass(frozen=True, eq=False)
class SparseCode:
    """The k strongest features of each token.

    They are sorted, strongest first, so that a smaller k is a prefix of a larger one.

    >>> values = torch.tensor([[3.0, 1.0, 0.0]])
    >>> code = SparseCode(values, torch.tensor([[4, 0, 2]]), d_sae=6)
    >>> code.prefix(1).indices.tolist(), code.dense().tolist(), code.l0().tolist()
    ([[4]], [[1.0, 0.0, 0.0, 0.0, 3.0, 0.0]], [2])

    Attributes:
        values: activations, at least 0; a token with fewer than k active features ends
            in zeros.
        indices: the feature that each value belongs to, from 0 to d_sae - 1.
        d_sae: how many features the SAE has.
        statistics: what brings the reconstruction of each token to its size, for an SAE
            that normalises tokens; None for any other.
    """

    values: Float[Tensor, "*batch k"]
    indices: Int[Tensor, "*batch k"]
    d_sae: int
    statistics: TokenStatistics | None = None

    def __post_init__(self) -> None:
        """Check that values and indices are tensors that fit together.

        Raises:
            InvalidArgument: not tensors, or indices that are not integers.
            ShapeMismatch: the two shapes differ.
        """
        if not isinstance(self.values, Tensor) or not isinstance(self.indices, Tensor):
            raise InvalidArgument(
                "values and indices of a code must be tensors; got "
                f"{type(self.values).__name__} and {type(self.indices).__name__}"
            )
        if self.indices.is_floating_point() or self.indices.dtype == torch.bool:
            raise InvalidArgument(
                f"indices of a code must be integers; got {self.indices.dtype}"
            )
        if self.values.ndim < 1 or self.values.shape != self.indices.shape:
            raise ShapeMismatch(
                "values and indices of a code must have one shape [..., k]; got "
                f"{list(self.values.shape)} and {list(self.indices.shape)}"
            )

    @property
    def k(self) -> int:
        """The number of features that each token has here, zeros included."""
        return self.values.shape[-1]

    def prefix(self, k: int) -> "SparseCode":
        """The code that encoding with this smaller k would have given, as a view.

        Raises:
            InvalidK: k is not an integer from 1 to this code's k.
        """
        length = arguments.as_integer(k)
        if length is None or not 1 <= length <= self.k:
            raise InvalidK(
                f"k of a prefix must be an integer from 1 to {self.k}; got {k!r}; "
                "encode again for a code with more features"
            )
        return replace(
            self,
            values=self.values[..., :length],
            indices=self.indices[..., :length],
        )

    def at_most(self, k: int | None) -> "SparseCode":
        """The prefix of k features; the whole code where it has no more, or k is None.

        For codes that hold every active feature, whatever their number.
        """
        if k is None or k >= self.k:
            return self
        return self.prefix(k)

    def dense(self) -> Float[Tensor, "*batch d_sae"]:
        """One column per feature, zero where it is not active.

        The only result here whose size grows with d_sae.

        Raises:
            InvalidArgument: an index is not below d_sae.
        """
        # Tensors without numbers come from torch.compile and nnsight's scan.
        if self.indices.numel() and holds_numbers(self.indices):
            highest = int(self.indices.max())
            if highest >= self.d_sae:
                raise InvalidArgument(
                    f"this code names feature {highest}; d_sae={self.d_sae}"
                )
        # Added, because the values of features that are not active are zeros and must
        # not overwrite another value wherever their index points.
        zeros = self.values.new_zeros(*self.values.shape[:-1], self.d_sae)
        return zeros.scatter_add(-1, self.indices, self.values)

    def l0(self) -> Int[Tensor, "*batch"]:
        """The number of active features of each token.

        At most k; fewer where a token has fewer than k positive pre-activations.
        """
        return (self.values > 0).sum(dim=-1)

    def where(self, mask: Bool[Tensor, "*batch"]) -> "SparseCode":
        """The same code, with the tokens outside ``mask`` set to zeros."""
        token_mask = mask.to(self.values.device).unsqueeze(-1)
        return replace(self, values=self.values.where(token_mask, 0))

    def detach(self) -> "SparseCode":
        """The same code, without a graph behind its values."""
        statistics = self.statistics
        if statistics is not None:
            statistics = statistics.detach()
        return replace(self, values=self.values.detach(), statistics=statistics)

    def to(self, device: torch.device | str) -> "SparseCode":
        """The same code on another device."""
        statistics = self.statistics
        if statistics is not None:
            statistics = statistics.to(device)
        return replace(
            self,
            values=self.values.to(device),
            indices=self.indices.to(device),
            statistics=statistics,
        )

    def float(self) -> "SparseCode":
        """The same code with values in float32."""
        return replace(self, values=self.values.float())

    def __getitem__(self, token: object) -> "SparseCode":
        """The codes of some tokens: indexes the leading axes, never the features.

        >>> indices = torch.zeros(2, 5, 3, dtype=torch.int64)
        >>> SparseCode(torch.ones(2, 5, 3), indices, d_sae=4)[0, 1:3].values.shape
        torch.Size([2, 3])
        """
        # With an Ellipsis before it, the last item can only mean the axis of features.
        index: Any = token if isinstance(token, tuple) else (token,)
        if not any(item is Ellipsis for item in index):
            index = (*index, Ellipsis)
        statistics = self.statistics
        if statistics is not None:
            statistics = statistics[index]
        index = (*index, slice(None))
        return replace(
            self,
            values=self.values[index],
            indices=self.indices[index],
            statistics=statistics,
        )

    def __repr__(self) -> str:
        """Shapes, not numbers."""
        batch = list(self.values.shape[:-1])
        return f"SparseCode(batch={batch}, k={self.k}, d_sae={self.d_sae})"
