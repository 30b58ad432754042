"""Tensors that do not fit an SAE are rejected by name; copies share memory."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.sae.tensors import random_unit_rows, with_shared_tensors


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rejects_activations_that_are_not_finite(bad):
    x = torch.randn(3, 5, 32)
    x[1, 2, :3] = bad
    with pytest.raises(
        sle.NonFinite,
        match="3 of 480 numbers in the activations given to the SAE of "
        "blocks.1.hook_resid_post",
    ):
        tiny.sae()(x)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_widths_that_do_not_fit():
    x = torch.randn(3, 5, 32)
    with pytest.raises(
        sle.ShapeMismatch,
        match=r"reads activations of width d_model=32; got \[3, 5, 31\]",
    ):
        tiny.sae()(x[..., :31])
    with pytest.raises(
        sle.ShapeMismatch,
        match="the code is over 48 features, this SAE has 40; was it made by another "
        "SAE",
    ):
        tiny.sae(d_sae=40).decode(tiny.sae().encode(x))
    sae = tiny.sae()
    with pytest.raises(
        sle.ShapeMismatch,
        match=r"W_dec must be \[48, 32\] for d_model=32, d_sae=48; got \[32, 48\]",
    ):
        sle.SAE.from_tensors(sae.config, sae.W_enc, sae.b_enc, sae.W_dec.T, sae.b_dec)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_activations_that_are_not_a_tensor():
    with pytest.raises(
        sle.InvalidArgument,
        match="the SAE of blocks.1.hook_resid_post reads tensors; "
        "got an object of type list",
    ):
        tiny.sae()([[0.0] * 32])
    with pytest.raises(
        sle.InvalidArgument, match="this SAE reads tensors; got an object of type list"
    ):
        tiny.sae(hook_name=None)([[0.0] * 32])


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_weights_of_different_dtypes():
    sae = tiny.sae()
    with pytest.raises(
        sle.InvalidArgument,
        match="must be of one dtype; got torch.float32, torch.float64",
    ):
        sle.SAE.from_tensors(
            sae.config, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec.double()
        )


@pytest.mark.parametrize(
    ("mean", "scale"),
    [
        (torch.zeros(31), torch.tensor(1.0)),
        (torch.zeros(32), torch.tensor(0.0)),
        (torch.zeros(32), torch.tensor(-1.0)),
        (torch.zeros(32), torch.tensor([1.0])),
        (torch.zeros(32), torch.tensor(float("nan"))),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_constants_that_do_not_fit(mean, scale):
    sae = tiny.sae()
    weights = [sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec]
    with pytest.raises(
        sle.ShapeMismatch,
        match=r"activation_mean must be \[32\] and activation_scale one positive "
        "number",
    ):
        sle.SAE.from_tensors(sae.config, *weights, mean, scale)


def test_random_rows_have_unit_norm():
    generator = torch.Generator().manual_seed(0)
    rows = random_unit_rows(32, 8, generator, torch.float64)
    assert rows.shape == (32, 8)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(32, dtype=torch.float64))


def test_shared_tensors_are_the_same_memory_under_parameters_of_their_own():
    sae = tiny.sae()
    twin = with_shared_tensors(sae)
    assert twin.W_dec is not sae.W_dec
    assert twin.W_dec.data_ptr() == sae.W_dec.data_ptr()
    twin.double()
    assert sae.W_dec.dtype == torch.float32


@pytest.mark.parametrize("x", [torch.zeros(2, 32).cfloat(), torch.eye(32).to_sparse()])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_activations_that_are_complex_or_sparse(x):
    with pytest.raises(sle.InvalidArgument, match="dense tensors of real numbers"):
        tiny.sae().encode(x)
