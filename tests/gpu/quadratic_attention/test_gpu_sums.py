"""Sums of values are weighted by scores within a chunk, and by states before it."""

import pytest
import torch

from sae_lens_ext.kernels.quadratic_attention import FeatureMap
from sae_lens_ext.kernels.quadratic_attention.gpu_layout import Layout
from sae_lens_ext.kernels.quadratic_attention.gpu_states import Values, prefix_sums
from sae_lens_ext.kernels.quadratic_attention.gpu_sums import sum_values

BASED = FeatureMap((1.0, 1.0, 0.5), 0.5, 1e-12)


@pytest.fixture
def tensors(device):
    """x, y and the values of y."""
    g = torch.Generator().manual_seed(0)
    shapes = [(1, 40, 4), (1, 40, 4), (1, 40, 3)]
    return [torch.randn(shape, generator=g).to(device) for shape in shapes]


@pytest.mark.parametrize("chunk", [0, 32])
@pytest.mark.usefixtures("small")
def test_forward_sums_are_divided_by_the_sum_of_the_weights(tensors, chunk):
    x, y, value = tensors
    layout = Layout(x, value, BASED, chunk)
    divisor = torch.empty_like(x[..., 0])
    out = torch.empty_like(value)
    states = None
    if chunk:
        states = prefix_sums(layout, y, Values(value, torch.ones_like(divisor)), None)

    sum_values(layout, x, y, value, states, out, divisor)

    weights = BASED.of_scores(BASED.scale * x @ y.mT).tril()
    total = weights.sum(-1)
    torch.testing.assert_close(divisor, total, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        out, weights @ value / total.unsqueeze(-1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("chunk", [0, 32])
@pytest.mark.usefixtures("small")
def test_sums_over_later_tokens_are_not_divided(tensors, chunk):
    x, y, value = tensors
    layout = Layout(x, value, BASED, chunk)
    out = torch.empty_like(value)
    states = None
    if chunk:
        of_y = Values(value, torch.ones_like(x[..., 0]))
        states = prefix_sums(layout, y, of_y, None, is_reverse=True)

    sum_values(layout, x, y, value, states, out, None)

    weights = BASED.of_scores(BASED.scale * x @ y.mT).triu()
    torch.testing.assert_close(out, weights @ value, rtol=1e-4, atol=1e-3)
