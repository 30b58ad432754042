"""Softmax attention sees its window, with or without taps, in text or after a cache."""

import pytest
import torch

from sae_lens_ext.based import BasedConfig
from sae_lens_ext.based.mixers.softmax_attention import SoftmaxAttention, rotate

D_MODEL = 12
WINDOWS = [None, 0, 3, 100]


def attention(window):
    config = BasedConfig(hidden_size=D_MODEL, num_attention_heads=3)
    return SoftmaxAttention(config, window).double()


@pytest.mark.parametrize("window", WINDOWS)
def test_hooked_pattern_leaves_the_output_and_shows_the_window(window):
    module = attention(window)
    x = torch.randn(2, 7, D_MODEL, dtype=torch.float64)
    expected = module(x)
    patterns = []
    module.hook_pattern.register_forward_hook(lambda _, __, out: patterns.append(out))
    torch.testing.assert_close(module(x), expected)

    is_visible = torch.ones(7, 7, dtype=torch.bool).tril()
    if window is not None:
        is_visible = is_visible.triu(-window)
    assert torch.equal(patterns[0] > 0, is_visible.expand(2, 3, 7, 7))


@pytest.mark.parametrize("window", WINDOWS)
def test_a_cache_continues_the_text(window):
    module = attention(window)
    x = torch.randn(2, 9, D_MODEL, dtype=torch.float64)
    cache = {}
    pieces = [module(piece, cache) for piece in x.split([4, 1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), module(x))
    assert cache["keys"].shape[1] == (9 if window is None else min(9, window))


@pytest.mark.parametrize("width", [8, 7])
def test_rotated_products_depend_on_the_distance_alone(width):
    q = torch.randn(1, 1, 1, width, dtype=torch.float64)
    k = torch.randn(1, 1, 1, width, dtype=torch.float64)

    def product(q_position, k_position):
        rotated_q = rotate(q, q_position, 10000.0)
        rotated_k = rotate(k, k_position, 10000.0)
        return (rotated_q * rotated_k).sum()

    torch.testing.assert_close(product(5, 2), product(13, 10), rtol=1e-4, atol=1e-4)
    assert (product(5, 2) - product(5, 4)).abs() > 1e-6
