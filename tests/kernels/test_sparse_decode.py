import pytest
import torch
from harness import compare

from kernels.cases import CASES
from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.kernels import sparse_decode
from sae_lens_ext.kernels.sparse_decode import cpu, reference


def _inputs(case):
    return {name: tensor for name, tensor in case.code().items() if name != "target"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cpu_agrees_with_the_definition_in_outputs_and_all_gradients(case, dtype):
    compare(cpu.sparse_decode, reference.sparse_decode, _inputs(case), dtype)


def test_any_leading_shape_and_strides():
    inputs = _inputs(CASES[3])
    expected = sparse_decode(**inputs, backend="reference")
    reshaped = {
        "values": inputs["values"].view(2, 5, 13, -1),
        "indices": inputs["indices"].int().view(2, 5, 13, -1),
        "W_dec": inputs["W_dec"].T.contiguous().T,  # stored column by column
        "b_dec": inputs["b_dec"].repeat_interleave(2)[::2],
    }
    torch.testing.assert_close(sparse_decode(**reshaped), expected.view(2, 5, 13, -1))


def test_no_token_gives_no_row():
    out = sparse_decode(
        torch.empty(0, 3),
        torch.empty(0, 3, dtype=torch.int64),
        torch.randn(5, 4),
        torch.zeros(4),
    )
    assert out.shape == (0, 4)


def _swap_two_rows(values, indices, W_dec, b_dec):
    return reference.sparse_decode(values, indices.flip(0), W_dec, b_dec)


def _drop_the_last_feature(values, indices, W_dec, b_dec):
    return reference.sparse_decode(values[:, :-1], indices[:, :-1], W_dec, b_dec)


def _skip_the_bias_gradient(values, indices, W_dec, b_dec):
    return reference.sparse_decode(values, indices, W_dec, b_dec.detach() + 0 * b_dec)


def _nan_in_one_place(values, indices, W_dec, b_dec):
    out = reference.sparse_decode(values, indices, W_dec, b_dec)
    return out + torch.zeros_like(out).index_fill(0, torch.tensor([2]), float("nan"))


@pytest.mark.parametrize(
    "sabotage",
    [
        _swap_two_rows,
        _drop_the_last_feature,
        _skip_the_bias_gradient,
        _nan_in_one_place,
    ],
)
def test_the_comparison_catches_planted_errors(sabotage):
    with pytest.raises(AssertionError, match="over budget"):
        compare(sabotage, reference.sparse_decode, _inputs(CASES[2]), torch.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"indices": torch.zeros(17, 5, dtype=torch.int64)},
            ShapeMismatch,
            r"values and indices must have one shape .*\[17, 6\] and \[17, 5\]",
        ),
        (
            {"indices": torch.zeros(17, 6)},
            InvalidArgument,
            r"indices must hold whole numbers; got torch.float32",
        ),
        (
            {"b_dec": torch.zeros(12)},
            ShapeMismatch,
            r"b_dec must be \[d_model=13\], as in W_dec \[29, 13\]; got \[12\]",
        ),
        (
            {"W_dec": torch.zeros(29)},
            ShapeMismatch,
            r"W_dec must be \[d_sae, d_model\], neither of them 0; got \[29\]",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_bad_input_is_refused_in_words(change, error, message):
    with pytest.raises(error, match=message):
        sparse_decode(**{**_inputs(CASES[2]), **change})
