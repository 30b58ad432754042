"""Choices of levels always end in k."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.objectives.levels import checked_levels, levels_of


@pytest.mark.parametrize(
    ("choice", "stride", "k", "expected"),
    [
        ("all", 1, 3, (1, 2, 3)),
        ("all", 8, 20, (8, 16, 20)),
        ("all", 8, 16, (8, 16)),
        ("all", 8, 5, (5,)),
        ("powers_of_two", 1, 8, (1, 2, 4, 8)),
        ("powers_of_two", 1, 9, (1, 2, 4, 8, 9)),
        ("powers_of_two", 1, 1, (1,)),
        ((2, 5), 1, 5, (2, 5)),
    ],
)
def test_levels_end_in_k(choice, stride, k, expected):
    assert levels_of(choice, stride, k) == expected


@pytest.mark.parametrize("levels", [(1, 2), (4, 1), (0, 4), (4, 4), ()])
def test_rejects_levels_that_do_not_rise_to_k(levels):
    with pytest.raises(sle.InvalidK, match="levels must rise from at least 1 to k=4"):
        levels_of(levels, 1, 4)


@pytest.mark.parametrize("value", [5, "every", [1, 2.5], None])
def test_rejects_invalid_levels(value):
    message = "levels must be 'all', 'powers_of_two' or a list of integers; got "
    with pytest.raises(sle.InvalidArgument, match=message):
        checked_levels(value, "levels")
