"""``sparse_decode`` agrees with its definition, and the comparison notices errors."""

import pytest
import torch
from harness import compare
from kernels.cases import CASES

from sae_lens_ext.kernels.sparse_decode import cpu, reference


def inputs_of(case):
    return {name: tensor for name, tensor in case.code().items() if name != "target"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_all_gradients_agree_with_the_definition(case, dtype):
    compare(cpu.sparse_decode, reference.sparse_decode, inputs_of(case), dtype)


def swap_two_rows(values, indices, W_dec, b_dec):
    return reference.sparse_decode(values, indices.flip(0), W_dec, b_dec)


def drop_the_last_feature(values, indices, W_dec, b_dec):
    return reference.sparse_decode(values[:, :-1], indices[:, :-1], W_dec, b_dec)


def skip_the_bias_gradient(values, indices, W_dec, b_dec):
    return reference.sparse_decode(values, indices, W_dec, b_dec.detach() + 0 * b_dec)


def write_one_nan_row(values, indices, W_dec, b_dec):
    out = reference.sparse_decode(values, indices, W_dec, b_dec)
    return out + torch.zeros_like(out).index_fill(0, torch.tensor([2]), float("nan"))


@pytest.mark.parametrize(
    "sabotage",
    [
        swap_two_rows,
        drop_the_last_feature,
        skip_the_bias_gradient,
        write_one_nan_row,
    ],
)
def test_the_comparison_catches_planted_errors(sabotage):
    with pytest.raises(AssertionError, match="over budget"):
        compare(sabotage, reference.sparse_decode, inputs_of(CASES[2]), torch.float32)
