"""What a token norm does to an activation, its statistics undo."""

import pytest
import torch

from sae_lens_ext.sae.normalization import normalize_tokens


@pytest.fixture
def x():
    return torch.randn(3, 5, 8, dtype=torch.float64) * 7 + 2


def test_none_leaves_activations_alone(x):
    u, statistics = normalize_tokens(x, "none")
    assert u is x
    assert statistics is None


def test_layer_norm_gives_mean_0_and_deviation_1(x):
    u, statistics = normalize_tokens(x, "layer_norm")
    torch.testing.assert_close(u.mean(-1), torch.zeros_like(u[..., 0]))
    torch.testing.assert_close(u.std(-1), torch.ones_like(u[..., 0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(statistics.restore(u), x, rtol=1e-4, atol=1e-4)


def test_unit_norm_gives_the_norm_of_a_vector_of_ones(x):
    u, statistics = normalize_tokens(x, "unit_norm")
    torch.testing.assert_close(u.norm(dim=-1), torch.full_like(u[..., 0], 8**0.5))
    torch.testing.assert_close(statistics.restore(u), x)


def test_a_part_of_a_reconstruction_has_no_share_in_the_mean(x):
    _, statistics = normalize_tokens(x, "layer_norm")
    part = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(statistics.rescale(part), part * x.std(-1, keepdim=True))


@pytest.mark.parametrize("token_norm", ["layer_norm", "unit_norm"])
def test_a_token_of_zeros_stays_zeros(token_norm):
    u, statistics = normalize_tokens(torch.zeros(2, 8), token_norm)
    assert not u.any()
    assert not statistics.restore(torch.ones(2, 8)).any()


def test_statistics_are_indexed_moved_and_detached(x):
    x.requires_grad_()
    _, statistics = normalize_tokens(x, "layer_norm")
    assert statistics[1, 2:].mean.shape == (3,)
    assert statistics.to("meta").scale.device.type == "meta"
    assert not statistics.detach().scale.requires_grad
