"""What the page of a feature shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Bin(NamedTuple):
    """A bar of a histogram."""

    low: float
    """Where it begins."""
    high: float
    """Where it ends; infinite for the last."""
    count: int
    """Activations in it."""


class Neighbour(NamedTuple):
    """A feature that writes nearly the same."""

    feature: int
    """Its number."""
    cosine: float
    """Of the two decoder rows."""
    label: str | None
    """Its label, if it has one."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """An activation, with the tokens around it."""

    tokens: Sequence[str]
    """The tokens."""
    activations: Sequence[float]
    """The activation of the feature on each of them; 0 where it is not active."""
    at: int
    """Which of the tokens it is about."""
    row: int
    """The row of the text."""
    position: int
    """The position of that token in the row."""

    @property
    def activation(self) -> float:
        """The activation on that token."""
        return self.activations[self.at]


@dataclass(frozen=True, kw_only=True)
class Quantile:
    """Some of the activations between two quantiles."""

    low: float
    """The share of all activations that are smaller."""
    high: float
    """The same for the upper end."""
    smallest: float
    """The smallest activation in it."""
    largest: float
    """The largest."""
    contexts: Sequence[Context]
    """Some of them, the largest first."""
    is_sampled: bool
    """Whether the quantiles are those of a sample."""
