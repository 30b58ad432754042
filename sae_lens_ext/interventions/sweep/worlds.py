"""The worlds of a sweep: what replaces the activation at every site."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bare:
    """The model as it stands: activations are left alone."""


@dataclass(frozen=True)
class MeanAblated:
    """Every site is replaced by its mean activation."""


@dataclass(frozen=True)
class ZeroAblated:
    """Every site is replaced by zeros."""


@dataclass(frozen=True)
class Spliced:
    """Every site is replaced by its reconstruction from ``k`` features per token.

    With None, from as many as the SAE of the site has by default.
    """

    k: int | None


World = Bare | MeanAblated | ZeroAblated | Spliced
