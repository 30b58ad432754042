"""What nodes outside of a circuit are set to: zero, a mean, or another run."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.circuits.encoded import Encoded
from sae_lens_ext.circuits.running.keys import BatchWeights
from sae_lens_ext.sae import SAE

Ablation = Literal["zero", "mean", "resample"]
ABLATIONS = ("zero", "mean", "resample")


class Ablated(ABC):
    """The values that nodes of one site have outside of a circuit."""

    @abstractmethod
    def x(
        self, encoded: Encoded, rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos d"]:
        """The activation of which every node is ablated."""
        ...

    @abstractmethod
    def written(
        self, sae: SAE, weights: BatchWeights
    ) -> Float[Tensor, "batch pos d"] | float:
        """What features write with these values, each times weight - weight of error.

        This is the part of the features in ``x``, where their share in a circuit is
        another than that of the error.
        """
        ...


class Zero(Ablated):
    """Features are not active, and nothing is left over."""

    def x(self, encoded: Encoded, rows: Tensor) -> Tensor:
        """The constants of the SAE."""
        return encoded.constants

    def written(self, sae: SAE, weights: BatchWeights) -> float:
        """Nothing."""
        return 0.0


@dataclass(frozen=True, eq=False)
class Mean(Ablated):
    """Means over tokens.

    Attributes:
        mean: of the activation.
        features: the features that are active at any of the tokens.
        acts: their mean activations, times the scales of tokens that were normalised.
    """

    mean: Float[Tensor, " d"]
    features: Int[Tensor, " active"]
    acts: Float[Tensor, " active"]

    @classmethod
    def of(cls, encoded: Encoded, mask: Bool[Tensor, "batch pos"]) -> "Mean":
        """The means over the tokens of a mask."""
        mask = mask.to(encoded.x.device)
        code = encoded.code[mask]
        values = code.values.double()
        if code.statistics is not None:
            values = values * code.statistics.scale.unsqueeze(-1)
        sums = values.new_zeros(code.d_sae)
        sums.index_add_(0, code.indices.flatten(), values.flatten())

        x = encoded.x[mask]
        features = sums.nonzero().flatten()
        acts = (sums[features] / len(x)).to(x.dtype)
        return cls(x.double().mean(0).to(x.dtype), features, acts)

    def x(self, encoded: Encoded, rows: Tensor) -> Tensor:
        """The mean activation."""
        return self.mean.expand_as(encoded.x)

    def written(self, sae: SAE, weights: BatchWeights) -> Tensor | float:
        """The share of mean features."""
        if not len(self.features):
            return 0.0
        shares = weights.by_slot(self.features)
        shares = shares - weights.errors_by_slot().unsqueeze(-1)
        table = sae.contribution_of(shares * self.acts, self.features.tolist())
        return weights.of_tokens(table)


@dataclass(frozen=True, eq=False)
class Resampled(Ablated):
    """The values in another run, at the same row and position.

    Attributes:
        encoded: the other run, of all rows.
    """

    encoded: Encoded

    def x(self, encoded: Encoded, rows: Tensor) -> Tensor:
        """The activation of the other run."""
        return self.encoded.x[rows]

    def written(self, sae: SAE, weights: BatchWeights) -> Tensor:
        """The share of the features of the other run."""
        code = self.encoded.code[weights.rows]
        shares = weights.features(code.indices) - weights.errors().unsqueeze(-1)
        return sae.contribution(replace(code, values=code.values * shares))


def ablated(
    ablation: Ablation,
    clean: Encoded,
    corrupted: Encoded | None,
    mask: Bool[Tensor, "batch pos"],
) -> Ablated:
    """The ablated values of a site.

    Args:
        ablation: which; ``"resample"`` needs a corrupted run.
        clean: the activations of the clean run.
        corrupted: those of the corrupted run, from which means are taken, too.
        mask: the tokens to take means over.
    """
    if ablation == "zero":
        return Zero()
    if ablation == "mean":
        return Mean.of(clean if corrupted is None else corrupted, mask)
    assert corrupted is not None
    # Where no feature is active anywhere, a whole code is empty.
    return Resampled(corrupted.padded(1))
