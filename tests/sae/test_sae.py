"""An SAE computes its definition, at every k."""

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
def test_a_reconstruction_is_that_of_the_definition(x, k):
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

    def counted(*arguments, **keywords):
        calls.append(arguments)
        return original(*arguments, **keywords)

    monkeypatch.setattr(sae, "encode", counted)
    nested = sae.nested(x, ks=[4, 8, 1])
    assert len(calls) == 1
    assert list(nested) == [4, 8, 1]
    assert all(torch.equal(nested[k], expected[k]) for k in expected)


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, "k must be an integer from 1 to d_sae=48; got 0"),
        (-3, "k must be an integer from 1 to d_sae=48; got -3"),
        (49, "k must be an integer from 1 to d_sae=48; got 49"),
        (
            9,
            "k=9 is above k=8, the largest this SAE was trained at; choose up to 8, or "
            "pass extrapolate=True",
        ),
        (2.0, "k must be an integer from 1 to d_sae=48; got 2.0"),
        (True, "k must be an integer from 1 to d_sae=48; got True"),
        ("4", "k must be an integer from 1 to d_sae=48; got '4'"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_k(x, k, message):
    sae = tiny.sae()
    for call in (sae.encode, sae, lambda x, k: sae.nested(x, [k])):
        with pytest.raises(sle.InvalidK, match=message):
            call(x, k)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_ks_that_are_not_a_list():
    sae = tiny.sae()
    with pytest.raises(sle.InvalidK, match="ks must be a list of values of k; got 4"):
        sae.nested(torch.zeros(2, 32), 4)
    with pytest.raises(sle.InvalidK, match="ks must hold at least one k; got none"):
        sae.nested(torch.zeros(2, 32), [])


@pytest.mark.usefixtures("without_shape_checks")
def test_accepts_any_kind_of_integer_as_k(x):
    sae = tiny.sae()
    for four in (numpy.int64(4), torch.tensor(4)):
        assert torch.equal(sae(x, four), sae(x, 4))
        assert torch.equal(sae.nested(x, [four])[4], sae(x, 4))


def test_extrapolate_goes_above_the_trained_maximum(x):
    sae = tiny.sae()
    torch.testing.assert_close(sae(x, 20, extrapolate=True), _by_hand(sae, x, 20))
    assert sae.encode(x, 48, extrapolate=True).k == 48


def test_constants_are_part_of_the_function_and_fold_away(x, normalized):
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


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_unfolding_an_sae_with_constants():
    sae = tiny.sae()
    scaled = sle.SAE.from_tensors(
        sae.config, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, activation_scale=2.0
    )
    with pytest.raises(
        sle.InvalidArgument,
        match="has an activation_mean or activation_scale of its own; call folded",
    ):
        scaled.unfolded(torch.zeros(32), torch.tensor(2.0))


def test_contributions_are_a_reconstruction_without_its_constants(x, normalized):
    code = normalized.encode(x, 3)
    empty = sle.SparseCode(torch.zeros_like(code.values), code.indices, code.d_sae)
    contribution = normalized.decode(code) - normalized.decode(empty)
    torch.testing.assert_close(normalized.contribution(code), contribution)
    features = list(range(48))
    torch.testing.assert_close(
        normalized.contribution_of(code.dense(), features), contribution
    )


def test_prefix_errors_are_those_of_every_prefix(x, normalized):
    code = normalized.encode(x, 3)
    errors = normalized.prefix_errors(x, code)
    assert errors.shape == (3, 5, 4)
    scale = normalized.activation_scale
    for k in (1, 2, 3):
        exact = ((x - normalized.decode(code.prefix(k))) * scale).square().sum(-1)
        torch.testing.assert_close(errors[..., k], exact)
    bias = normalized.b_dec / scale + normalized.activation_mean
    torch.testing.assert_close(
        errors[..., 0], ((x - bias) * scale).square().sum(-1), rtol=1e-4, atol=1e-5
    )


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
        sle.InvalidArgument, match="apply_b_dec_to_input belong to the weights"
    ):
        sae.with_config(apply_b_dec_to_input=False)
    with pytest.raises(
        sle.InvalidArgument, match="config has no 'hookname'; the closest: hook_name"
    ):
        sae.with_config(hookname="blocks.2.hook_resid_pre")
