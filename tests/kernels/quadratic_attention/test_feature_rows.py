"""Features of tokens along the last axis are ``feature_map``, with its derivative."""

import pytest
import torch
from kernels.attention_cases import FEATURE_MAPS

from sae_lens_ext.kernels.quadratic_attention import FeatureMap, feature_map
from sae_lens_ext.kernels.quadratic_attention.feature_rows import FeatureRows


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("d", [1, 2, 5])
def test_rows_and_their_gradient_are_those_of_the_feature_map(name, d):
    c = FEATURE_MAPS[name]
    g = torch.Generator().manual_seed(d)
    x = torch.randn(2, 7, d, generator=g, dtype=torch.float64, requires_grad=True)
    expected = feature_map(x, c, 0.3)
    upstream = torch.randn(expected.shape, generator=g, dtype=torch.float64)
    (expected_gradient,) = torch.autograd.grad(expected, x, upstream)
    features = FeatureRows(d, FeatureMap(c, 0.3, 1e-12))
    rows = x.detach().mT.contiguous()

    torch.testing.assert_close(features.of(rows).mT, expected)
    torch.testing.assert_close(
        features.gradient(rows, upstream.mT.contiguous()).mT, expected_gradient
    )
