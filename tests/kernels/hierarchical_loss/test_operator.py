"""The operator of ``hierarchical_loss`` scales the gradients that it returns."""

import torch
from kernels.cases import CASES, cast

from sae_lens_ext.kernels import hierarchical_loss


def test_an_upstream_factor_scales_every_gradient():
    def gradients(factor):
        inputs = cast(CASES[2].code(), torch.float64, requires_grad=True)
        (factor * hierarchical_loss(**inputs)).backward()
        return [tensor.grad for tensor in inputs.values() if tensor.is_floating_point()]

    for once, three_times in zip(gradients(1.0), gradients(3.0), strict=True):
        torch.testing.assert_close(3 * once, three_times)


def test_a_batch_of_upstream_gradients():
    inputs = CASES[2].code()
    values = inputs["values"].requires_grad_()
    loss = hierarchical_loss(**inputs)
    (batch,) = torch.autograd.grad(
        loss,
        values,
        torch.tensor([1.0, 2.0], dtype=loss.dtype),
        is_grads_batched=True,
        retain_graph=True,
    )
    (once,) = torch.autograd.grad(loss, values)
    torch.testing.assert_close(batch, torch.stack([once, 2 * once]))


def test_autocast_leaves_it_in_float32():
    inputs = cast(CASES[3].code(), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = hierarchical_loss(**inputs)
    assert torch.equal(loss, hierarchical_loss(**inputs))
