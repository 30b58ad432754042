"""Squares are added up in float32 at least."""

import torch

from sae_lens_ext.objectives.targets import mean_square


def test_squares_beyond_half_precision_are_finite():
    error = torch.full((3, 4), 1000.0, dtype=torch.float16)
    assert mean_square(error).item() == 1e6
    assert mean_square(error.double()).dtype == torch.float64
