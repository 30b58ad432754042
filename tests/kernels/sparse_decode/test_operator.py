"""The operator of ``sparse_decode`` takes any leading shape and any strides."""

import torch
from kernels.cases import CASES

from sae_lens_ext.kernels import sparse_decode


def test_any_leading_shape_and_strides():
    inputs = CASES[3].code()
    del inputs["target"]
    expected = sparse_decode(**inputs, backend="reference")
    reshaped = {
        "values": inputs["values"].view(2, 5, 13, -1),
        "indices": inputs["indices"].int().view(2, 5, 13, -1),
        # Stored column by column.
        "W_dec": inputs["W_dec"].T.contiguous().T,
        "b_dec": inputs["b_dec"].repeat_interleave(2)[::2],
    }
    torch.testing.assert_close(sparse_decode(**reshaped), expected.view(2, 5, 13, -1))


def test_zero_tokens_give_zero_rows():
    indices = torch.empty(0, 3, dtype=torch.int64)
    out = sparse_decode(torch.empty(0, 3), indices, torch.randn(5, 4), torch.zeros(4))
    assert out.shape == (0, 4)
