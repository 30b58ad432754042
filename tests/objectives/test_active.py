"""Active features are the same whether they are a code or dense."""

import pytest
import tiny
import torch

from sae_lens_ext.objectives import active
from sae_lens_ext.objectives.active import active_features


@pytest.fixture
def sae():
    return tiny.sae_of_kind("relu")


def bounds(value):
    return torch.full((48,), value, dtype=torch.float64)


def test_few_active_features_are_a_code_and_many_are_dense(sae):
    u = torch.randn(20, 32, dtype=torch.float64)
    assert active_features(sae, u, bounds(0.0)).indices is None
    assert active_features(sae, u, bounds(10.0)).indices is not None


def test_both_forms_have_the_same_results_and_gradients(sae, monkeypatch):
    u = torch.randn(20, 32, dtype=torch.float64)
    numbers = torch.rand(48, dtype=torch.float64)
    results = []
    for share in (-1.0, 2.0):
        monkeypatch.setattr(active, "_LARGEST_SHARE", share)
        features = active_features(sae, u, bounds(3.0))
        assert (features.indices is None) == (share < 0)
        acts = features.values * features.of(numbers)
        recons = features.decoded(sae, acts)
        gradients = torch.autograd.grad(
            recons.square().sum(), [sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec]
        )
        code = features.code(acts, 48)
        assert not code.values.requires_grad
        results.append((code.values, code.dense(), recons, *gradients))
    for dense, sparse in zip(*results, strict=True):
        torch.testing.assert_close(dense, sparse)


def test_a_code_is_as_wide_as_its_widest_token(sae):
    u = torch.randn(20, 32, dtype=torch.float64)
    features = active_features(sae, u, bounds(0.0))
    code = features.code(features.values, 48)
    assert code.k == code.l0().max() < 48
    assert (code.values.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("bound", [0.0, 10.0])
def test_nan_does_not_vanish(sae, bound):
    u = torch.randn(20, 32, dtype=torch.float64)
    u[1, 1] = torch.nan
    assert active_features(sae, u, bounds(bound)).values.isnan().any()
