"""The CPU version of ``topk_encode`` agrees with its definition."""

import pytest
import torch
from harness import compare
from kernels.cases import CASES

from sae_lens_ext.kernels.topk_encode import cpu, reference


def values_of(module, k):
    def encode(x, W_enc, b_enc, centre):
        return module.topk_encode(x, W_enc, b_enc, k, centre)[0]

    return encode


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_all_gradients_agree_with_the_definition(case, dtype):
    fast = values_of(cpu, case.k)
    plain = values_of(reference, case.k)
    compare(fast, plain, case.encoder(), dtype)
