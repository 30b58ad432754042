"""The errors of a code's prefixes are those of their reconstructions."""

import torch

from sae_lens_ext.sae.code import SparseCode
from sae_lens_ext.sae.prefixes import squared_errors


def test_every_prefix_has_the_error_of_its_reconstruction():
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(5, 8, generator=generator)
    W_dec = torch.randn(16, 8, generator=generator)
    values = torch.rand(5, 3, generator=generator)
    indices = torch.arange(15).reshape(5, 3)
    errors = squared_errors(residual, SparseCode(values, indices, 16), W_dec)
    for k in range(4):
        recons = (values[:, :k, None] * W_dec[indices[:, :k]]).sum(1)
        expected = (residual - recons).square().sum(-1)
        torch.testing.assert_close(errors[:, k], expected)
