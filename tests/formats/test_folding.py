"""Options that are moved into the weights leave the function as it was."""

import pytest
import torch

from sae_lens_ext.formats import folding

D_MODEL = 6
D_SAE = 10


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "W_enc": (D_MODEL, D_SAE),
        "b_enc": (D_SAE,),
        "W_dec": (D_SAE, D_MODEL),
        "b_dec": (D_MODEL,),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def _decoded(weights, acts):
    return acts @ weights["W_dec"] + weights["b_dec"]


def _pre(weights, x):
    return x @ weights["W_enc"] + weights["b_enc"]


def test_a_feature_with_a_decoder_row_of_zeros_wins_no_place(weights):
    weights["W_dec"][3] = 0
    weights["b_enc"][3] = 1000.0
    x = torch.randn(20, D_MODEL, dtype=torch.float64)
    norms = weights["W_dec"].norm(dim=1)
    scores = _pre(weights, x) * norms
    folded = folding.with_decoder_norms(weights)
    torch.testing.assert_close(_pre(folded, x), scores)
    assert not bool(_pre(folded, x)[:, 3].any())
    acts = scores.relu()
    definition = torch.where(norms > 0, acts / norms, 0.0)
    torch.testing.assert_close(_decoded(folded, acts), _decoded(weights, definition))


def test_scales_of_the_activations(weights):
    x = torch.randn(20, D_MODEL, dtype=torch.float64)
    folded = folding.with_scaled_activations(weights, 0.3, 2.0)
    torch.testing.assert_close(_pre(folded, x), _pre(weights, 0.3 * x))
    acts = torch.rand(20, D_SAE, dtype=torch.float64)
    torch.testing.assert_close(_decoded(folded, acts), _decoded(weights, acts) / 2)


@pytest.mark.parametrize("has_pre_bias", [True, False])
def test_whitening(weights, has_pre_bias):
    mean = torch.randn(D_MODEL, dtype=torch.float64)
    matrix = torch.randn(D_MODEL, D_MODEL, dtype=torch.float64)
    inverse = torch.linalg.inv(matrix)
    folded = folding.with_whitened_activations(
        weights, mean, matrix, inverse, has_pre_bias=has_pre_bias
    )
    x = torch.randn(20, D_MODEL, dtype=torch.float64)
    z = (x - mean) @ matrix
    bias = float(has_pre_bias)
    torch.testing.assert_close(
        _pre(folded, x - bias * folded["b_dec"]),
        _pre(weights, z - bias * weights["b_dec"]),
    )
    acts = torch.rand(20, D_SAE, dtype=torch.float64)
    torch.testing.assert_close(
        _decoded(folded, acts), _decoded(weights, acts) @ inverse + mean
    )


def test_a_gated_sae_is_a_jumprelu_sae(weights):
    generator = torch.Generator().manual_seed(1)
    b_gate, b_mag, r_mag = (
        torch.randn(D_SAE, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    W_enc = weights["W_enc"]
    x = torch.randn(500, D_MODEL, dtype=torch.float64)
    gate = x @ W_enc + b_gate > 0
    acts = (x @ (W_enc * r_mag.exp()) + b_mag).relu() * gate

    folded = folding.gated_as_jumprelu(W_enc, b_gate, b_mag, r_mag)
    pre = _pre(folded, x)
    torch.testing.assert_close(pre.relu() * (pre > folded["threshold"]), acts)
    # The magnitude decides where it is negative, the gate elsewhere.
    assert bool((gate & (pre <= 0)).any())
    assert bool((~gate & (pre > 0)).any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_threshold_in_another_dtype_decides_every_comparison_alike(dtype):
    grid = torch.randn(2000).to(dtype)
    grid = torch.cat([grid, torch.zeros(1, dtype=dtype), -grid])
    thresholds = torch.randn(300, dtype=torch.float64)
    thresholds = torch.cat([thresholds, grid[:100].double(), torch.zeros(1)])
    rounded = folding.rounded_down(thresholds, dtype)
    assert rounded.dtype == dtype
    above = grid.double()[:, None] > thresholds
    assert torch.equal(grid[:, None] > rounded, above)


def test_folds_keep_the_dtype_of_the_weights(weights):
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    factors = torch.rand(D_SAE)
    for folded in (
        folding.with_decoder_norms(half),
        folding.with_scaled_activations(half, 0.1, 0.1),
        folding.with_scaled_features(half, factors),
        folding.gated_as_jumprelu(half["W_enc"], *[half["b_enc"]] * 3),
    ):
        assert {tensor.dtype for tensor in folded.values()} == {torch.bfloat16}
    # Rounded once, from a product in float32.
    expected = half["W_dec"].float() * factors[:, None]
    scaled = folding.with_scaled_features(half, factors)
    assert torch.equal(scaled["W_dec"], expected.bfloat16())
