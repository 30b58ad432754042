import dataclasses

import numpy
import pytest
import tiny
import torch

import sae_lens_ext as sle


@pytest.fixture
def x():
    return torch.randn(3, 5, 32)


def _by_hand(sae, x, k):
    """The definition, spelled out for one SAE and dense."""
    u = (x - sae.activation_mean) * sae.activation_scale
    pre_activations = (u - sae.b_dec) @ sae.W_enc + sae.b_enc
    values, indices = pre_activations.topk(k, dim=-1)
    code = torch.zeros_like(pre_activations).scatter(-1, indices, values.relu())
    return (code @ sae.W_dec + sae.b_dec) / sae.activation_scale + sae.activation_mean


@pytest.fixture(params=[True, False], ids=["pre-bias", "no pre-bias"])
def normalized(request):
    """An SAE with constants of its own, as training leaves it."""
    sae = tiny.sae(apply_b_dec_to_input=request.param)
    sae.activation_mean = torch.randn(32)
    sae.activation_scale = torch.tensor(0.25)
    return sae


@pytest.mark.parametrize("k", [1, 3, 8])
def test_a_reconstruction_is_what_the_definition_says(x, k):
    sae = tiny.sae()
    torch.testing.assert_close(sae(x, k), _by_hand(sae, x, k))
    torch.testing.assert_close(sae(x, k), sae.decode(sae.encode(x, 8).prefix(k)))


def test_without_k_the_trained_maximum_is_used(x):
    sae = tiny.sae()
    assert sae.encode(x).k == 8
    assert torch.equal(sae(x), sae(x, 8))


def test_nested_is_one_encode_and_every_reconstruction(x, monkeypatch):
    sae = tiny.sae()
    expected = {k: sae(x, k) for k in (4, 8, 1)}
    calls = []
    original = sae.encode
    monkeypatch.setattr(
        sae, "encode", lambda *a, **k: (calls.append(a), original(*a, **k))[1]
    )
    nested = sae.nested(x, ks=[4, 8, 1])
    assert len(calls) == 1
    assert list(nested) == [4, 8, 1]
    assert all(torch.equal(nested[k], expected[k]) for k in expected)


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, "k must be from 1 to d_sae=48; got 0"),
        (-3, "k must be from 1 to d_sae=48; got -3"),
        (49, "k must be from 1 to d_sae=48; got 49"),
        (
            9,
            "k=9 is above k=8, the largest this SAE was trained at; choose up to 8, or pass extrapolate=True",
        ),
        (2.0, r"k must be a whole number from 1 to d_sae=48; got 2.0 \(float\)"),
        (True, r"k must be a whole number from 1 to d_sae=48; got True \(bool\)"),
        ("4", r"got '4' \(str\)"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_a_k_it_cannot_serve_is_refused(x, k, message):
    sae = tiny.sae()
    for call in (sae.encode, sae, lambda x, k: sae.nested(x, [k])):
        with pytest.raises(sle.InvalidK, match=message):
            call(x, k)


@pytest.mark.usefixtures("without_shape_checks")
def test_any_kind_of_whole_number_is_a_k(x):
    sae = tiny.sae()
    for four in (numpy.int64(4), torch.tensor(4)):
        assert torch.equal(sae(x, four), sae(x, 4))
        assert torch.equal(sae.nested(x, [four])[4], sae(x, 4))


def test_extrapolate_goes_above_the_trained_maximum(x):
    sae = tiny.sae()
    torch.testing.assert_close(sae(x, 20, extrapolate=True), _by_hand(sae, x, 20))
    assert sae.encode(x, 48, extrapolate=True).k == 48


def test_constants_travel_with_it_and_fold_away(x, normalized):
    if normalized.config.apply_b_dec_to_input:
        torch.testing.assert_close(normalized(x, 4), _by_hand(normalized, x, 4))
    folded = normalized.folded()
    assert folded.activation_scale == 1
    assert not folded.activation_mean.any()
    torch.testing.assert_close(folded(x, 4), normalized(x, 4))
    assert torch.equal(folded.W_dec, normalized.W_dec), (
        "folding should leave decoder rows at their norm"
    )
    # Features of the folded SAE are in units of the activations.
    torch.testing.assert_close(
        folded.encode(x).values * normalized.activation_scale,
        normalized.encode(x).values,
    )
    back = folded.unfolded(normalized.activation_mean, normalized.activation_scale)
    for name, tensor in normalized.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, msg=name)


def test_gradients_reach_the_input_and_every_weight(x):
    sae = tiny.sae()
    x.requires_grad_()
    sae(x, 4).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in sae.parameters())


def test_half_precision_activations_are_read_in_the_dtype_of_the_sae(x):
    sae = tiny.sae()
    half = x.bfloat16()
    assert sae(half).dtype == torch.float32
    assert torch.equal(sae(half), sae(half.float()))


def test_the_encoder_is_stored_feature_by_feature():
    sae = tiny.sae()
    assert sae.W_enc.shape == (32, 48)
    assert sae.W_enc.T.is_contiguous()
    assert sae.folded().W_enc.T.is_contiguous()


def test_the_same_generator_gives_the_same_sae():
    config = sle.SAEConfig(d_model=4, d_sae=8, k=2)
    first, second = (
        sle.SAE(config, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first.W_dec, second.W_dec)
    torch.testing.assert_close(first.W_dec.norm(dim=1), torch.ones(8))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_activations_that_are_no_numbers_are_refused(x, bad):
    x[1, 2, :3] = bad
    with pytest.raises(
        sle.NonFinite,
        match="3 of 480 numbers in the activations given to the SAE of blocks.1.hook_resid_post",
    ):
        tiny.sae()(x)


@pytest.mark.usefixtures("without_shape_checks")
def test_widths_that_do_not_fit_are_named(x):
    with pytest.raises(
        sle.ShapeMismatch,
        match=r"reads activations of width d_model=32; got \[3, 5, 31\]",
    ):
        tiny.sae()(x[..., :31])
    with pytest.raises(
        sle.ShapeMismatch,
        match="the code is over 48 features, this SAE has 40; was it made by another SAE",
    ):
        tiny.sae(d_sae=40).decode(tiny.sae().encode(x))
    sae = tiny.sae()
    with pytest.raises(
        sle.ShapeMismatch,
        match=r"W_dec must be \[48, 32\] for d_model=32, d_sae=48; got \[32, 48\]",
    ):
        sle.SAE.from_tensors(sae.config, sae.W_enc, sae.b_enc, sae.W_dec.T, sae.b_dec)


def test_config_checks_itself():
    with pytest.raises(
        sle.InvalidArgument, match="d_sae must be a whole number of at least 1; got 0"
    ):
        sle.SAEConfig(d_model=4, d_sae=0, k=1)
    with pytest.raises(sle.InvalidK, match="k must be from 1 to d_sae=8; got 9"):
        sle.SAEConfig(d_model=4, d_sae=8, k=9)
    with pytest.raises(
        sle.InvalidArgument,
        match=r"levels must rise from at least 1 to k=4 without repeats; got \(1, 3\)",
    ):
        sle.SAEConfig(d_model=4, d_sae=8, k=4, levels=(1, 3))
    assert sle.SAEConfig(d_model=4, d_sae=8, k=4).levels == (4,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sle.SAEConfig(d_model=4, d_sae=8, k=4).k = 3


def test_with_config_changes_facts_and_never_weights():
    sae = tiny.sae()
    moved = sae.with_config(hook_name="blocks.2.hook_resid_pre")
    assert (sae.config.hook_name, moved.config.hook_name) == (
        "blocks.1.hook_resid_post",
        "blocks.2.hook_resid_pre",
    )
    assert moved.W_dec.data_ptr() == sae.W_dec.data_ptr()
    moved.double()
    assert (sae.W_dec.dtype, moved.W_dec.dtype) == (torch.float32, torch.float64)
    with pytest.raises(sle.InvalidArgument, match="d_sae belong to the weights"):
        sae.with_config(d_sae=3)
    with pytest.raises(
        sle.InvalidArgument, match="config has no 'hookname'; the closest: hook_name"
    ):
        sae.with_config(hookname="blocks.2.hook_resid_pre")


@pytest.mark.usefixtures("without_shape_checks")
def test_parts_of_an_sae_that_do_not_fit_are_said():
    sae = tiny.sae()
    with pytest.raises(
        sle.InvalidArgument, match="metadata must be a mapping of JSON values; got None"
    ):
        sle.SAEConfig(d_model=4, d_sae=8, k=2, metadata=None)
    with pytest.raises(
        sle.InvalidArgument,
        match="must be of one dtype; got torch.float32, torch.float64",
    ):
        sle.SAE.from_tensors(
            sae.config, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec.double()
        )
    with pytest.raises(sle.InvalidK, match="nested takes a list of values of k; got 4"):
        sae.nested(torch.zeros(2, 32), 4)
    with pytest.raises(
        sle.InvalidArgument, match="apply_b_dec_to_input belong to the weights"
    ):
        sae.with_config(apply_b_dec_to_input=False)
    scaled = sle.SAE.from_tensors(
        sae.config, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, activation_scale=2.0
    )
    with pytest.raises(
        sle.InvalidArgument,
        match="has an activation_mean or activation_scale of its own; call folded",
    ):
        scaled.unfolded(torch.zeros(32), torch.tensor(2.0))
