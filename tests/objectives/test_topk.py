"""TopK has the gradient of both uses of the decoder bias."""

import pytest
import tiny
import torch

from sae_lens_ext.objectives import HierarchicalTopK, TopK


def test_bias_before_the_encoder_gets_its_gradient_too(u):
    """``b_dec`` is used twice; autograd on dense algebra gives the gradient of both."""
    sae = tiny.sae()
    TopK()(sae, u, 5).value.backward()

    b_dec = sae.b_dec.detach().clone().requires_grad_()
    values, indices = ((u - b_dec) @ sae.W_enc.detach() + sae.b_enc.detach()).topk(5)
    dense = torch.zeros(20, 48).scatter(1, indices, values.relu())
    (dense @ sae.W_dec.detach() + b_dec - u).square().mean().backward()
    torch.testing.assert_close(sae.b_dec.grad, b_dec.grad)


@pytest.mark.parametrize("objective", [TopK(), HierarchicalTopK(levels=(5,))])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_loss_of_half_precision_is_in_float32(u, dtype, objective):
    sae = tiny.sae().to(dtype)
    u = (u * 2000).to(dtype)
    loss = objective(sae, u, 5)
    assert loss.value.dtype == torch.float32

    recons = sae.decode(loss.code)
    expected = (recons.double() - u.double()).square().mean().item()
    assert expected > torch.finfo(torch.float16).max
    # The reconstruction above is rounded to half precision.
    assert loss.value.item() == pytest.approx(expected, rel=1e-3)

    loss.value.backward()
    assert sae.b_dec.grad.dtype == dtype
    assert sae.b_dec.grad.isfinite().all()


def test_levels_are_k_alone():
    assert TopK().levels_at(7) == (7,)
