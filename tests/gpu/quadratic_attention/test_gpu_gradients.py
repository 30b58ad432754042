"""Gradients by way of the weights are those that autograd finds for the definition."""

import pytest
import torch

from sae_lens_ext.kernels.quadratic_attention import FeatureMap
from sae_lens_ext.kernels.quadratic_attention.gpu_gradients import grad_scores
from sae_lens_ext.kernels.quadratic_attention.gpu_layout import Layout
from sae_lens_ext.kernels.quadratic_attention.gpu_states import Values, prefix_sums

BASED = FeatureMap((1.0, 1.0, 0.5), 0.5, 1e-12)


@pytest.mark.parametrize("is_reverse", [False, True])
@pytest.mark.parametrize("chunk", [0, 32])
@pytest.mark.usefixtures("small")
def test_gradient_is_that_of_the_weights(is_reverse, chunk, device):
    g = torch.Generator().manual_seed(0)
    x, y, x_values, y_values = (
        torch.randn(1, 40, 4, generator=g).to(device) for _ in range(4)
    )
    # The last column belongs to the normalizer.
    of_x, of_y = (
        Values(values[..., :-1].contiguous(), values[..., -1].contiguous())
        for values in (x_values, y_values)
    )
    layout = Layout(x, of_x.value, BASED, chunk)
    states = None
    if chunk:
        states = prefix_sums(layout, y, of_y, None, is_reverse=is_reverse)
    gradient = torch.empty_like(x)

    grad_scores(layout, x, of_x, y, of_y, states, gradient, is_reverse=is_reverse)

    leaf = x.double().requires_grad_()
    weights = BASED.of_scores(BASED.scale * leaf @ y.double().mT)
    weights = weights.triu() if is_reverse else weights.tril()
    grad_weights = x_values.double() @ y_values.double().mT
    (expected,) = torch.autograd.grad(weights, leaf, grad_weights)
    torch.testing.assert_close(gradient, expected.float(), rtol=1e-4, atol=1e-3)
