"""Levels are drawn in proportion to their weights."""

import torch

from sae_lens_ext.objectives.level_draws import LevelDraws


def test_levels_are_drawn_as_often_as_they_weigh():
    draws = LevelDraws(0)
    levels = [2, 3, 8]
    counted = dict.fromkeys(levels, 0.0)
    for _ in range(1000):
        drawn, counts = draws.draw(levels, [3.0, 0.0, 1.0], 4)
        assert drawn == sorted(set(drawn))
        assert sum(counts) == 4
        for level, count in zip(drawn, counts, strict=True):
            counted[level] += count
    assert counted[3] == 0
    # Four standard deviations of 4,000 draws.
    assert abs(counted[2] / 4000 - 0.75) < 4 * (0.75 * 0.25 / 4000) ** 0.5


def test_the_generator_says_what_comes_next():
    draws = LevelDraws(5)
    draws.draw([1, 2, 3], [1.0] * 3, 2)
    other = LevelDraws(0)
    other.generator.set_state(draws.generator.get_state())
    rows = [
        [one.draw(range(1, 50), [1.0] * 49, 3) for _ in range(5)]
        for one in (draws, other)
    ]
    assert rows[0] == rows[1]
    assert torch.equal(draws.generator.get_state(), other.generator.get_state())
