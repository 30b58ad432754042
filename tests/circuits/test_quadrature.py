"""Points that are dense where a metric changes."""

import pytest
import torch

from sae_lens_ext.circuits.quadrature import (
    N_PARTS,
    concentrated_points,
    gauss_points,
)

ENDS = torch.linspace(0, 1, N_PARTS + 1, dtype=torch.float64)


def switch(t, centre, width):
    """A metric that goes from 0 to 1 within a short part of the path."""
    return torch.sigmoid((t - centre) / width)


def slope(t, centre, width):
    value = switch(t, centre, width)
    return value * (1 - value) / width


@pytest.mark.parametrize("centre", [0.02, 0.3, 0.71, 0.95])
@pytest.mark.parametrize("width", [0.03, 0.05, 0.1, 0.3])
def test_eight_points_integrate_a_switch_within_one_percent(centre, width):
    values = switch(ENDS, centre, width)
    change = values[-1] - values[0]
    total = sum(
        weight * slope(point, centre, width)
        for point, weight in concentrated_points(values, 8)
    )
    assert abs(total / change - 1) < 0.01


def test_eight_gauss_points_miss_a_switch_by_more():
    centre, width = torch.tensor(0.3), torch.tensor(0.03)
    total = sum(
        weight * slope(torch.tensor(point), centre, width)
        for point, weight in gauss_points(8)
    )
    change = switch(torch.tensor(1.0), centre, width) - switch(
        torch.tensor(0.0), centre, width
    )
    assert abs(total / change - 1) > 0.05


def test_the_mean_of_a_constant_is_exact_and_points_are_on_the_path():
    for values in (ENDS, ENDS.square(), torch.zeros(N_PARTS + 1), -ENDS):
        for steps in (1, 2, 8, 33):
            points, weights = zip(*concentrated_points(values, steps), strict=True)
            assert abs(sum(weights) - 1) < 1e-12
            assert all(0 < point < 1 for point in points)
            assert list(points) == sorted(points)


def test_more_points_converge_on_smooth_functions():
    values = torch.exp(3 * ENDS)
    errors = []
    for steps in (4, 8, 16):
        total = sum(
            weight * 3 * torch.exp(3 * point)
            for point, weight in concentrated_points(values, steps)
        )
        errors.append(abs(total / (torch.exp(torch.tensor(3.0)) - 1) - 1).item())
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 10


def test_every_row_has_points_of_its_own():
    values = torch.stack([switch(ENDS, 0.2, 0.03), switch(ENDS, 0.8, 0.03)])
    for points, weights in concentrated_points(values, 5):
        assert points.shape == weights.shape == (2,)
        assert points[0] < points[1]
    alone = list(concentrated_points(values[1], 5))
    together = list(concentrated_points(values, 5))
    for (point, weight), (points, weights) in zip(alone, together, strict=True):
        assert point == points[1]
        assert weight == weights[1]
