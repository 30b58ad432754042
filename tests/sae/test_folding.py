"""Folding moves constants into the biases and keeps the function."""

import pytest
import torch

from sae_lens_ext.sae.folding import fold, unfold


@pytest.fixture
def weights():
    return {
        "W_enc": torch.randn(5, 7, dtype=torch.float64),
        "b_enc": torch.randn(7, dtype=torch.float64),
        "W_dec": torch.randn(7, 5, dtype=torch.float64),
        "b_dec": torch.randn(5, dtype=torch.float64),
    }


MEAN = torch.linspace(-2, 3, 5, dtype=torch.float64)
SCALE = torch.tensor(0.3, dtype=torch.float64)


def _reconstruction(weights, x, has_pre_bias):
    centred = x - weights["b_dec"] if has_pre_bias else x
    acts = torch.relu(centred @ weights["W_enc"] + weights["b_enc"])
    return acts @ weights["W_dec"] + weights["b_dec"]


@pytest.mark.parametrize("has_pre_bias", [True, False])
def test_folding_keeps_the_function(weights, has_pre_bias):
    x = torch.randn(9, 5, dtype=torch.float64)
    folded = fold(weights, MEAN, SCALE, has_pre_bias=has_pre_bias)
    normalized = _reconstruction(weights, (x - MEAN) * SCALE, has_pre_bias)
    torch.testing.assert_close(
        _reconstruction(folded, x, has_pre_bias), normalized / SCALE + MEAN
    )
    assert folded["W_enc"] is weights["W_enc"]
    assert folded["W_dec"] is weights["W_dec"]


@pytest.mark.parametrize("has_pre_bias", [True, False])
def test_unfolding_is_the_inverse(weights, has_pre_bias):
    folded = fold(weights, MEAN, SCALE, has_pre_bias=has_pre_bias)
    unfolded = unfold(folded, MEAN, SCALE, has_pre_bias=has_pre_bias)
    assert unfolded.pop("activation_mean") is MEAN
    assert unfolded.pop("activation_scale") is SCALE
    assert unfolded.keys() == weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(unfolded[name], tensor, msg=name)
