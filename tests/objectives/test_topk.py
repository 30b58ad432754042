"""TopK has the gradient of both uses of the decoder bias."""

import tiny
import torch

from sae_lens_ext.objectives import TopK


def test_bias_before_the_encoder_gets_its_gradient_too(u):
    """``b_dec`` is used twice; autograd on dense algebra gives the gradient of both."""
    sae = tiny.sae()
    TopK()(sae, u, 5).value.backward()

    b_dec = sae.b_dec.detach().clone().requires_grad_()
    values, indices = ((u - b_dec) @ sae.W_enc.detach() + sae.b_enc.detach()).topk(5)
    dense = torch.zeros(20, 48).scatter(1, indices, values.relu())
    (dense @ sae.W_dec.detach() + b_dec - u).square().mean().backward()
    torch.testing.assert_close(sae.b_dec.grad, b_dec.grad)


def test_levels_are_k_alone():
    assert TopK().levels_at(7) == (7,)
