"""Every kind of value that users pass is accepted in all its forms, or an error."""

import math

import numpy as np
import pytest
import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument, InvalidK

INTEGERS = [3, np.int64(3), np.uint8(3), torch.tensor(3)]
NOT_INTEGERS = [
    3.0,
    "3",
    None,
    True,
    np.True_,
    torch.tensor(3.0),
    torch.tensor(True),
    [3],
]


@pytest.mark.parametrize("value", INTEGERS, ids=repr)
def test_integer_accepts_every_kind_of_integer(value):
    number = arguments.integer(value, "n")
    assert number == 3
    assert type(number) is int


@pytest.mark.parametrize("value", NOT_INTEGERS, ids=repr)
def test_integer_rejects_everything_else(value):
    with pytest.raises(InvalidArgument, match="n must be an integer; got"):
        arguments.integer(value, "n")


@pytest.mark.parametrize(
    ("bounds", "value", "expected"),
    [
        ({"at_least": 1}, 0, "a positive integer"),
        ({"at_least": 0}, -1, "a non-negative integer"),
        ({"at_least": 2}, 1, "an integer of at least 2"),
        ({"at_most": 8}, 9, "an integer of at most 8"),
        ({"at_least": 1, "at_most": 8}, 9, "an integer from 1 to 8"),
    ],
)
def test_integer_names_its_bounds(bounds, value, expected):
    with pytest.raises(InvalidArgument, match=f"n must be {expected}; got {value}"):
        arguments.integer(value, "n", **bounds)


@pytest.mark.parametrize("values", [[1, 2], (1, 2), range(1, 3), np.array([1, 2])])
def test_integers_accepts_every_iterable_of_integers(values):
    assert arguments.integers(values, "levels") == (1, 2)


@pytest.mark.parametrize("values", ["12", 3, [1, 2.5], None, torch.tensor(3), [True]])
def test_integers_rejects_everything_else(values):
    with pytest.raises(InvalidArgument, match="levels must be a list of integers; got"):
        arguments.integers(values, "levels")


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)], ids=repr)
def test_finite_accepts_every_kind_of_real_number(value):
    number = arguments.finite(value, "lr")
    assert number == 2.0
    assert type(number) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "2", True, None, 2j])
def test_finite_rejects_everything_else(value):
    with pytest.raises(InvalidArgument, match="lr must be a finite number; got"):
        arguments.finite(value, "lr")


@pytest.mark.parametrize(
    ("bounds", "value", "expected"),
    [
        ({"above": 0}, 0, "a positive number"),
        ({"at_least": 0}, -1, "a non-negative number"),
        ({"at_least": 0, "at_most": 1}, 1.5, "a number from 0 to 1"),
        ({"at_least": 0, "below": 1}, 1.0, "a number of at least 0 and below 1"),
    ],
)
def test_finite_names_its_bounds(bounds, value, expected):
    with pytest.raises(InvalidArgument, match=f"lr must be {expected}; got {value}"):
        arguments.finite(value, "lr", **bounds)


def test_fraction_includes_its_ends():
    assert arguments.fraction(0, "decay") == 0.0
    assert arguments.fraction(1, "decay") == 1.0


@pytest.mark.parametrize("value", [True, np.True_, torch.tensor(True)], ids=repr)
def test_flag_accepts_booleans(value):
    assert arguments.flag(value, "folded") is True


@pytest.mark.parametrize("value", [0, 1, "True", None])
def test_flag_rejects_numbers_and_strings(value):
    with pytest.raises(InvalidArgument, match="folded must be True or False; got"):
        arguments.flag(value, "folded")


@pytest.mark.parametrize("value", ["c", None, ["a"]])
def test_choice_names_the_choices(value):
    assert arguments.choice("a", "form", ("a", "b")) == "a"
    with pytest.raises(InvalidArgument, match="form must be one of a, b; got"):
        arguments.choice(value, "form", ("a", "b"))


def test_device_rejects_what_cannot_hold_numbers():
    assert arguments.device("cpu") == torch.device("cpu")
    with pytest.raises(InvalidArgument, match="holds shapes and no numbers; try cpu"):
        arguments.device("meta")
    with pytest.raises(InvalidArgument, match="device 'cuda:99' cannot be used here"):
        arguments.device("cuda:99")
    with pytest.raises(InvalidArgument, match="device 'gpu' cannot be used here"):
        arguments.device("gpu")


@pytest.mark.parametrize("value", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_dtype_accepts_an_object_or_its_name(value):
    assert arguments.dtype(value) == torch.bfloat16


@pytest.mark.parametrize("value", ["int8", torch.int64, "float8", 16, None, "nn"])
def test_dtype_rejects_everything_else(value):
    with pytest.raises(InvalidArgument, match="must be a floating-point dtype such as"):
        arguments.dtype(value)


@pytest.mark.parametrize("value", [0, 9, -1, 4.0, "4", None, True])
def test_k_is_an_integer_up_to_d_sae(value):
    assert arguments.k(np.int64(8), 8) == 8
    with pytest.raises(InvalidK, match="k must be an integer from 1 to d_sae=8; got"):
        arguments.k(value, 8)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, (3,)),
        (np.int64(3), (3,)),
        ([5, 1], (5, 1)),
        (range(2), (0, 1)),
        (np.array([5, 1]), (5, 1)),
        (torch.tensor([5, 1]), (5, 1)),
        (torch.tensor([False, True, True]), (1, 2)),
        ([False, True], (1,)),
    ],
)
def test_features_come_as_numbers_or_as_a_mask(value, expected):
    assert arguments.features(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be one or more non-negative integers"),
        (-1, "must be one or more non-negative integers"),
        (1.5, "must be one or more non-negative integers"),
        ("17", "must be one or more non-negative integers"),
        (True, "must be one or more non-negative integers"),
        (torch.tensor([False, False]), "must be one or more non-negative integers"),
        ([3, 3], "must not repeat a feature"),
    ],
)
def test_features_rejects_invalid_numbers(value, message):
    with pytest.raises(InvalidArgument, match=f"features {message}"):
        arguments.features(value)
