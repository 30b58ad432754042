"""The operator of ``topk_encode`` takes any leading shape, and keeps layouts."""

import torch
from kernels.cases import CASES

from sae_lens_ext.kernels import topk_encode


def test_the_gradient_of_an_encoder_stored_by_feature_has_its_layout():
    W_enc = torch.randn(29, 13).T.requires_grad_()
    values, _ = topk_encode(torch.randn(4, 13), W_enc, torch.zeros(29), k=3)
    values.sum().backward()
    assert W_enc.grad.stride() == W_enc.stride()


def test_any_leading_shape():
    inputs = CASES[3].encoder()
    flat_values, flat_indices = topk_encode(**inputs, k=4)

    x = inputs.pop("x")
    values, indices = topk_encode(x.view(2, 5, 13, 70), **inputs, k=4)
    assert torch.equal(values.flatten(0, 2), flat_values)
    assert torch.equal(indices.flatten(0, 2), flat_indices)

    single_values, _ = topk_encode(x[0], **inputs, k=4)
    torch.testing.assert_close(single_values, flat_values[0])
