"""Levels drawn at random, such that the expected loss is that of all levels."""

from collections import Counter
from collections.abc import Sequence

import torch


class LevelDraws:
    """Draws levels in proportion to their weights.

    With a probability for each level that is its weight, divided by the sum of all, the
    expected mean error of the drawn levels is the weighted mean error of all levels.

    Attributes:
        generator: what they are drawn from.
    """

    def __init__(self, seed: int) -> None:
        """Start at a seed."""
        self.generator = torch.Generator().manual_seed(seed)

    def draw(
        self, levels: Sequence[int], weights: Sequence[float], n: int
    ) -> tuple[list[int], list[float]]:
        """Draw ``n`` levels, with replacement.

        Returns:
            The drawn levels, rising, and how often each was drawn.
        """
        probabilities = torch.tensor(weights, dtype=torch.float64)
        places = torch.multinomial(
            probabilities, n, replacement=True, generator=self.generator
        )
        counts = Counter(levels[place] for place in places.tolist())
        drawn = sorted(counts)
        return drawn, [float(counts[level]) for level in drawn]
