"""Features multiply to the polynomial of the scores, and are as many as published."""

import math

import pytest
import torch
from kernels.attention_cases import BASED, FEATURE_MAPS, REBASED

from sae_lens_ext.kernels.quadratic_attention import (
    feature_map,
    feature_pairs,
    n_features,
)


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("d", [1, 2, 3, 8, 16])
def test_inner_products_of_features_are_the_polynomial(name, d):
    c = FEATURE_MAPS[name]
    scale = 1 / math.sqrt(d)
    g = torch.Generator().manual_seed(d)
    q, k = torch.randn(2, 40, d, generator=g, dtype=torch.float64)
    s = scale * (q * k).sum(-1)

    products = (feature_map(q, c, scale) * feature_map(k, c, scale)).sum(-1)

    torch.testing.assert_close(
        products, c[0] + c[1] * s + c[2] * s**2, rtol=1e-12, atol=1e-12
    )
    assert feature_map(q, c, scale).shape[-1] == n_features(d, c)
    pairs = {tuple(sorted(pair)) for pair in feature_pairs(d).tolist()}
    assert len(pairs) == d * (d + 1) // 2


def test_numbers_of_features_are_the_published_ones():
    assert n_features(16, BASED) == 153
    assert n_features(16, REBASED) == 136


def test_squaring_every_coordinate_is_a_different_feature_map():
    """The papers say "element-wise", but their code squares the inner product."""
    q = torch.tensor([1.0, 2.0])
    k = torch.tensor([3.0, 1.0])

    assert float(q.square() @ k.square()) != float((q @ k).square())
    torch.testing.assert_close(
        feature_map(q, REBASED, 1.0) @ feature_map(k, REBASED, 1.0), (q @ k).square()
    )
