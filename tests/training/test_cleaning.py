"""Outliers are shrunk and constants computed as documented."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.training.cleaning import (
    check_finite,
    largest_norm,
    mean_and_scale,
    shrink_outliers,
)


def test_the_largest_norm_is_six_times_the_median_of_rows_that_are_not_zero():
    values = torch.zeros(9, 2)
    values[:5, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])
    assert largest_norm(values) == 18
    assert largest_norm(torch.zeros(3, 2)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_only_outliers_are_shrunk_and_only_once(dtype):
    values = torch.randn(20, 3).to(dtype)
    values[4] *= 100
    shrunk, n_outliers = shrink_outliers(values, torch.tensor(20.0))
    assert shrunk.dtype == dtype
    assert n_outliers == 1
    assert shrunk[4].float().norm().item() == pytest.approx(20, rel=1e-2)
    others = [row for row in range(20) if row != 4]
    assert torch.equal(shrunk[others], values[others])
    assert shrink_outliers(shrunk, torch.tensor(20.0))[1] == 0


def test_mean_and_scale_are_those_of_float64():
    values = torch.randn(50, 4) * 3 + torch.tensor([1000.0, 0, -5, 2])
    mean, scale = mean_and_scale(values)
    exact = values.double()
    torch.testing.assert_close(mean, exact.mean(0).float())
    spread = (exact - exact.mean(0)).square().mean().sqrt()
    torch.testing.assert_close(scale, (1 / spread).float())


def test_numbers_that_are_not_finite_name_the_site():
    values = torch.ones(3, 2)
    check_finite("here", values)
    values[1, 0] = torch.inf
    # The sum of these is not finite, and they are.
    check_finite("here", torch.full((3, 2), 3e38))
    with pytest.raises(sle.NonFinite, match="1 of 6 numbers at here are NaN or"):
        check_finite("here", values)
