"""Gradients by the values of a code are products of decoder rows and a gradient."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.circuits.projections import feature_gradients


@pytest.mark.parametrize("token_norm", ["none", "layer_norm", "unit_norm"])
def test_they_are_those_of_the_dense_decoder(token_norm):
    sae = tiny.sae(token_norm=token_norm).double()
    with torch.no_grad():
        sae.activation_scale.fill_(0.25)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 32, generator=generator, dtype=torch.float64)
    gradient = torch.randn(2, 5, 32, generator=generator, dtype=torch.float64)
    code = sae.encode(x).detach()

    products = gradient @ sae.W_dec.T.detach() * 4
    if code.statistics is not None:
        products = products * code.statistics.scale.unsqueeze(-1)
    expected = products.gather(-1, code.indices)
    gradients = feature_gradients(sae, code, gradient)
    assert torch.allclose(gradients, expected, rtol=0, atol=1e-12)
    assert not gradients.requires_grad


def test_weights_that_are_nan_are_an_error_that_names_the_site():
    sae = tiny.sae(k=3)
    code = sae.encode(torch.randn(4, sae.config.d_model))
    with torch.no_grad():
        sae.W_dec[code.indices[2, 0]] = float("nan")
    gradient = torch.randn(4, sae.config.d_model)
    message = f"effects of features at {sae.config.hook_name} are NaN"
    with pytest.raises(sle.NonFinite, match=message):
        feature_gradients(sae, code, gradient)


def test_the_weights_keep_their_gradients():
    sae = tiny.sae()
    code = sae.encode(torch.randn(3, 32)).detach()
    feature_gradients(sae, code, torch.ones(3, 32))
    assert sae.W_dec.requires_grad
    assert sae.W_dec.grad is None
