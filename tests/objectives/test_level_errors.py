"""Running means of the errors, and weights of one over them."""

import math

import pytest
import torch

from sae_lens_ext.objectives.level_errors import LevelErrors


def test_before_the_first_batch_all_weigh_alike():
    assert LevelErrors(0.9).weights([1, 2, 7]) == [1, 1, 1]


def test_the_first_errors_count_fully_and_later_ones_by_the_decay():
    errors = LevelErrors(0.75)
    errors.update([1, 3], torch.tensor([4.0, 2.0]))
    errors.update([1], torch.tensor([8.0]))
    assert errors.values[0] == 0.75 * 4 + 0.25 * 8
    assert errors.values[1].isnan()
    assert errors.values[2] == 2


def test_weights_are_one_over_the_mean_error():
    errors = LevelErrors(0.9)
    errors.update([1, 2, 4], torch.tensor([8.0, 4.0, 1.0]))
    first, second, fourth = errors.weights([1, 2, 4])
    assert (second / first, fourth / first) == (2, 8)


def test_a_level_without_an_error_weighs_as_the_others_on_average():
    errors = LevelErrors(0.9)
    errors.update([1, 2], torch.tensor([1.0, 0.5]))
    assert errors.weights([1, 2, 3]) == [1, 2, 1.5]


@pytest.mark.parametrize("vanished", [0.0, 1e-30])
def test_an_error_that_vanishes_does_not_outweigh_all(vanished):
    errors = LevelErrors(0.9)
    errors.update([1, 2], torch.tensor([1.0, vanished]))
    assert errors.weights([1, 2]) == pytest.approx([1, 1e6])
    nothing = LevelErrors(0.9)
    nothing.update([1, 2], torch.zeros(2))
    assert all(map(math.isfinite, nothing.weights([1, 2])))
