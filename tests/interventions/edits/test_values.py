"""Edits hold finite plain numbers."""

import pytest
import torch

import sae_lens_ext as sle


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sle.Ablate([3, 4], to=[1.0]),
            "to must be one number, or one for each of the 2 features",
        ),
        (lambda: sle.Steer(3, by="much"), "by must be a finite number; got 'much'"),
        (lambda: sle.Steer(1, by=float("inf")), "by must be a finite number; got inf"),
        (lambda: sle.Scale(1, by=10**400), "by must be a finite number"),
        (lambda: sle.Scale(1, by=1e300), "by must be a finite number in float32"),
        (lambda: sle.Ablate(1, to=float("nan")), "to must be a finite number; got nan"),
        (
            lambda: sle.Steer(1, by=torch.tensor(1.0, requires_grad=True)),
            "requires a gradient, and edits hold plain numbers",
        ),
    ],
)
def test_rejects_numbers_that_are_not_finite_and_plain(make, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        make()
