"""Levels and weights are read as the documentation says, or raise errors."""

import pytest
import torch
from kernels.cases import CASES

from sae_lens_ext.errors import InvalidArgument, InvalidK
from sae_lens_ext.kernels import hierarchical_loss

pytestmark = pytest.mark.usefixtures("without_shape_checks")

IS_INTEGER = r"levels must be integers from 1 to k=6, the number of features per token"
IS_NUMBER = r"weights must be a list of finite numbers of at least 0"
ONLY_ONCE = r"at least one prefix length, and each only once"


@pytest.mark.parametrize(
    ("levels", "error", "message"),
    [
        ([0, 3], InvalidK, IS_INTEGER + r"; got \[0, 3\]"),
        ([7], InvalidK, IS_INTEGER + r"; got \[7\]"),
        ([2.0], InvalidK, r"got \[2.0\]"),
        (3, InvalidK, IS_INTEGER + r"; got 3"),
        (torch.tensor([2, 2]), InvalidArgument, ONLY_ONCE),
        ([2, 2], InvalidArgument, ONLY_ONCE + r"; got \[2, 2\]"),
        ([], InvalidArgument, ONLY_ONCE),
    ],
)
def test_rejects_invalid_levels(levels, error, message):
    with pytest.raises(error, match=message):
        hierarchical_loss(**CASES[2].code(), levels=levels)


@pytest.mark.parametrize(
    ("levels", "weights", "message"),
    [
        ([1, 2], 3, IS_NUMBER + r"; got 3"),
        ([1, 2], "ab", IS_NUMBER + r"; got 'ab'"),
        ([1, 2], [1.0], r"one number per level; got 1 weights for 2 levels"),
        ([1], [-1.0], IS_NUMBER + r"; got \[-1.0\]"),
        ([1, 2], [0, 0], r"weights must not all be 0; got"),
        (None, [float("nan")] * 6, IS_NUMBER),
        (None, "123456", IS_NUMBER),
        (None, ["1"] * 6, IS_NUMBER),
        (None, dict.fromkeys(range(6)), IS_NUMBER),
        (None, [10**400] + [1] * 5, IS_NUMBER),
    ],
)
def test_rejects_invalid_weights(levels, weights, message):
    with pytest.raises(InvalidArgument, match=message):
        hierarchical_loss(**CASES[2].code(), levels=levels, weights=weights)


@pytest.mark.parametrize("size", [1e308, 5e-324])
def test_only_ratios_of_weights_count_however_large_or_small(size):
    inputs = CASES[2].code()
    expected = hierarchical_loss(**inputs, levels=[1, 2], weights=[1.0, 1.0])
    loss = hierarchical_loss(**inputs, levels=iter([1, 2]), weights=[size, size])
    assert loss == expected


def test_tensors_are_accepted_as_weights():
    inputs = CASES[2].code()
    expected = hierarchical_loss(**inputs, levels=[1, 2], weights=[1.0, 3.0])
    together = torch.tensor([1.0, 3.0])
    for weights in (together, list(together)):
        loss = hierarchical_loss(**inputs, levels=[1, 2], weights=weights)
        assert loss == expected
