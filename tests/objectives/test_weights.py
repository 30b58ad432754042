"""Rules for the weights of levels, and what is rejected."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.objectives.weights import checked_weights, fixed_weights


def test_rules_are_functions_of_the_level():
    levels = [1, 2, 5]
    assert fixed_weights("uniform", levels) == [1, 1, 1]
    assert fixed_weights("ramp", levels) == [1, 2, 5]
    assert fixed_weights("inverse", levels) == [1, 1 / 2, 1 / 5]
    assert fixed_weights("half_on_largest", levels) == [1, 1, 2]
    assert fixed_weights("half_on_largest", [5]) == [1]
    assert fixed_weights((0.5, 0.0, 2.0), levels) == [0.5, 0, 2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ramps", "weights must be one of uniform, .*, inverse, relative; got 'ramp"),
        (3, "weights must be one of .* or a list of non-negative numbers.*; got 3"),
        ([1.0, -1.0], "list of non-negative numbers, one per level; got"),
        ([float("nan")], "list of non-negative numbers"),
        ([0.0, 0.0], "weights must not all be 0"),
    ],
)
def test_rejects_invalid_weights(value, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        checked_weights(value, "weights")
