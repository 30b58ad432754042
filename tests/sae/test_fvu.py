"""The fraction of variance unexplained, against its definition."""

import math

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.sae import FVU


def _fvu(x, x_hat, split=None):
    fvu = FVU()
    size = split or len(x)
    for part, part_hat in zip(x.split(size), x_hat.split(size), strict=True):
        fvu.update(part, part_hat)
    return fvu.value()


def test_is_0_for_the_truth_and_1_for_the_mean():
    x = torch.randn(50, 4) + torch.tensor([0.0, 1.0, 100.0, -5000.0])
    assert _fvu(x, x) == 0
    assert _fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1, rel=1e-5)


def test_agrees_with_a_hand_computed_case():
    # Means 1 and 2, squared distances 2 and 8.
    x = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    # Squared errors 1 and 4.
    x_hat = torch.tensor([[0.0, 1.0], [2.0, 2.0]])
    assert _fvu(x, x_hat) == 0.5


@pytest.mark.parametrize("split", [1, 7, 64, 1000])
def test_does_not_depend_on_the_split_into_batches(split):
    x = torch.randn(1000, 6).double() * 3 + 6000
    x_hat = x + torch.randn(1000, 6)
    exact = ((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert _fvu(x, x_hat, split) == pytest.approx(exact.item(), rel=1e-9)


def test_a_mean_over_all_coordinates_would_give_another_number():
    x = torch.randn(100, 2) + torch.tensor([0.0, 1000.0])
    x_hat = x + 1
    pooled = ((x - x_hat) ** 2).sum() / ((x - x.mean()) ** 2).sum()
    assert _fvu(x, x_hat) > 1000 * pooled.item()


def test_without_variance_it_is_not_a_number():
    assert math.isnan(FVU().value())
    assert math.isnan(_fvu(torch.ones(3, 2), torch.ones(3, 2)))


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_shapes_that_would_broadcast():
    with pytest.raises(
        sle.ShapeMismatch, match=r"must have one shape; got \[10, 4\] and \[1, 4\]"
    ):
        FVU().update(torch.randn(10, 4), torch.randn(1, 4))
