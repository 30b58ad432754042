"""Tensors that do not fit a kernel raise errors that name them."""

import pytest
import torch

from kernels.cases import CASES
from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.kernels import hierarchical_loss, sparse_decode, topk_encode

pytestmark = pytest.mark.usefixtures("without_shape_checks")


@pytest.fixture
def encoder():
    return CASES[2].encoder()


@pytest.fixture
def code():
    return CASES[2].code()


def test_rejects_an_encoder_whose_shapes_do_not_fit(encoder):
    x = encoder["x"]
    W_enc = encoder["W_enc"]
    b_enc = encoder["b_enc"]
    message = (
        r"last axis of x must be d_model=13, as in W_enc \[13, 29\]; got x \[17, 12\]"
    )
    with pytest.raises(ShapeMismatch, match=message):
        topk_encode(x[:, :12], W_enc, b_enc, 3)
    with pytest.raises(ShapeMismatch, match=r"b_enc must be \[d_sae=29\]"):
        topk_encode(x, W_enc, b_enc[:5], 3)
    with pytest.raises(ShapeMismatch, match=r"centre must be \[d_model=13\]"):
        topk_encode(x, W_enc, b_enc, 3, centre=b_enc)

    message = r"W_enc must be \[d_model, d_sae\], neither of them 0; got \[0, 4\]"
    with pytest.raises(ShapeMismatch, match=message):
        topk_encode(torch.ones(2, 0), torch.ones(0, 4), torch.ones(4), 3)


def test_rejects_tensors_of_another_type_dtype_or_device(encoder):
    message = "x must be a torch tensor; got an object of type ndarray"
    with pytest.raises(InvalidArgument, match=message):
        topk_encode(**{**encoder, "x": encoder["x"].numpy()}, k=3)

    message = "at least 16 bits; got x torch.int64, W_enc torch.int64"
    with pytest.raises(InvalidArgument, match=message):
        topk_encode(**{name: tensor.long() for name, tensor in encoder.items()}, k=3)

    message = (
        "all tensors must be on one device; W_enc is on meta, others on cpu: move it"
    )
    with pytest.raises(InvalidArgument, match=message):
        topk_encode(**{**encoder, "W_enc": encoder["W_enc"].to("meta")}, k=3)


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
            r"indices must be a tensor of integers; got torch.float32",
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
def test_rejects_a_decoder_that_does_not_fit(code, change, error, message):
    del code["target"]
    with pytest.raises(error, match=message):
        sparse_decode(**{**code, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"indices": torch.full((17, 6), 29)},
            InvalidArgument,
            r"features from 0 to 28, the rows of W_dec; they run from 29 to 29",
        ),
        (
            {"indices": torch.full((17, 6), -1)},
            InvalidArgument,
            r"they run from -1 to -1",
        ),
        (
            {"values": torch.zeros(17, 6)},
            InvalidArgument,
            r"one floating-point dtype of at least 16 bits; got values torch.float32, "
            r"W_dec torch.float64",
        ),
        (
            {"target": torch.zeros(17, 13)},
            InvalidArgument,
            r"at least 16 bits; got target torch.float32, W_dec torch.float64",
        ),
        (
            {"target": torch.zeros(17, 12)},
            ShapeMismatch,
            r"target must be \[..., d_model\] = \[17, 13\]",
        ),
    ],
)
def test_rejects_a_loss_of_tensors_that_do_not_fit(code, change, error, message):
    with pytest.raises(error, match=message):
        hierarchical_loss(**{**code, **change})


def test_rejects_indices_on_another_device(code):
    message = "all tensors must be on one device; indices is on meta, others on cpu"
    with pytest.raises(InvalidArgument, match=message):
        hierarchical_loss(**{**code, "indices": code["indices"].to("meta")})


def test_rejects_the_loss_of_zero_tokens(code):
    empty = {
        name: tensor[:0] if name in ("values", "indices", "target") else tensor
        for name, tensor in code.items()
    }
    with pytest.raises(ShapeMismatch, match="the loss needs at least one token"):
        hierarchical_loss(**empty)
