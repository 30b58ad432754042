"""An SAE of any kind computes its definition, and every kind has the dial."""

import copy

import pytest
import tiny
import torch

import sae_lens_ext as sle

D_MODEL = 16
D_SAE = 48


def an_sae(kind, **config):
    """An SAE in float64 whose tokens have between none and many active features."""
    return tiny.sae_of_kind(kind, D_MODEL, D_SAE, **config)


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 7, D_MODEL, generator=generator, dtype=torch.float64)


def dense_by_hand(sae, x, k=None):
    """The features of an autoencoder without constants: gate, sort, keep k."""
    pre = x @ sae.W_enc + sae.b_enc
    if sae.config.apply_b_dec_to_input:
        pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc

    is_active = pre > 0
    if sae.threshold is not None:
        is_active = is_active & (pre > sae.threshold)
    acts = torch.where(is_active, pre, 0)
    if k is None:
        return acts
    values, indices = acts.sort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(acts)
    return kept.scatter(-1, indices[..., :k], values[..., :k])


KINDS_WITHOUT_K = ["jumprelu", "batchtopk", "relu"]
PRE_BIAS = {"pre-bias": True, "no pre-bias": False}


@pytest.mark.parametrize("pre_bias", PRE_BIAS.values(), ids=PRE_BIAS)
@pytest.mark.parametrize("kind", KINDS_WITHOUT_K)
def test_without_k_every_active_feature_is_in_the_code(x, kind, pre_bias):
    sae = an_sae(kind, apply_b_dec_to_input=pre_bias)
    expected = dense_by_hand(sae, x)
    code = sae.encode(x)
    assert code.k == (expected > 0).sum(-1).max()
    torch.testing.assert_close(code.dense(), expected)
    torch.testing.assert_close(sae(x), expected @ sae.W_dec + sae.b_dec)


@pytest.mark.parametrize("k", [1, 3, 20, D_SAE])
@pytest.mark.parametrize("kind", [*KINDS_WITHOUT_K, "topk"])
def test_k_keeps_the_strongest_of_the_active_features(x, kind, k):
    sae = an_sae(kind)
    code = sae.encode(x, k, extrapolate=True)
    assert code.k == k
    torch.testing.assert_close(code.dense(), dense_by_hand(sae, x, k))


@pytest.mark.parametrize("kind", KINDS_WITHOUT_K)
def test_a_capped_code_is_exactly_a_prefix_of_the_uncapped_one(x, kind):
    sae = an_sae(kind)
    full = sae.encode(x)
    for k in range(1, full.k + 1):
        code = sae.encode(x, k)
        prefix = full.prefix(k)
        is_active = prefix.values > 0
        assert torch.equal(code.values, prefix.values)
        assert torch.equal(code.indices[is_active], prefix.indices[is_active])


def test_a_negative_threshold_does_not_let_negative_features_pass(x):
    sae = an_sae("jumprelu")
    assert (sae.threshold < 0).any()
    assert (sae.encode(x).values >= 0).all()


def test_nested_takes_none_for_every_active_feature(x):
    sae = an_sae("jumprelu")
    nested = sae.nested(x, [4, None])
    assert list(nested) == [4, None]
    torch.testing.assert_close(nested[4], sae(x, 4))
    torch.testing.assert_close(nested[None], sae(x))


def test_nested_takes_none_for_the_trained_k(x):
    sae = an_sae("topk")
    nested = sae.nested(x, [2, None])
    assert list(nested) == [2, None]
    torch.testing.assert_close(nested[None], sae(x))


def test_prefix_errors_reach_from_the_bias_to_the_whole_code(x):
    sae = an_sae("jumprelu")
    code = sae.encode(x)
    errors = sae.prefix_errors(x, code)
    assert errors.shape == (3, 7, code.k + 1)
    for k in (1, 5, code.k):
        expected = (x - sae(x, k)).square().sum(-1)
        torch.testing.assert_close(errors[..., k], expected)


def test_a_token_without_active_features_has_a_code_of_zeros():
    sae = an_sae("jumprelu")
    with torch.no_grad():
        sae.threshold.fill_(1e9)
    x = torch.randn(4, D_MODEL, dtype=torch.float64)
    code = sae.encode(x)
    assert code.k == 1
    assert code.l0().tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(sae(x), sae.b_dec.expand(4, -1))


@pytest.mark.parametrize("kind", ["jumprelu", "topk"])
@pytest.mark.parametrize("token_norm", ["layer_norm", "unit_norm"])
def test_token_norms_are_applied_and_undone_for_every_token(x, kind, token_norm):
    sae = an_sae(kind, token_norm=token_norm)
    x = x * torch.linspace(0.1, 9, 7, dtype=torch.float64)[:, None] + 2
    if token_norm == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        scale = x.std(-1, keepdim=True)
        u = (x - mean) / (scale + 1e-5)
    else:
        mean = torch.zeros(3, 7, 1, dtype=torch.float64)
        scale = x.norm(dim=-1, keepdim=True) / D_MODEL**0.5
        u = x / scale
    k = sae.config.k
    expected = dense_by_hand(sae, u, k) @ sae.W_dec + sae.b_dec

    code = sae.encode(x)
    torch.testing.assert_close(code.dense(), dense_by_hand(sae, u, k))
    torch.testing.assert_close(sae(x), expected * scale + mean)

    # Any part of a code knows the size of its tokens.
    torch.testing.assert_close(sae.decode(code[1, 2:4]), sae(x)[1, 2:4])
    torch.testing.assert_close(sae.decode(code.prefix(2)), sae(x, 2))


def test_what_features_add_is_scaled_back_with_the_token():
    sae = an_sae("jumprelu", token_norm="unit_norm")
    x = torch.randn(5, D_MODEL, dtype=torch.float64) * 30
    code = sae.encode(x)
    without_any = code.where(torch.zeros(5, dtype=torch.bool))
    added = sae.decode(code) - sae.decode(without_any)
    torch.testing.assert_close(sae.contribution(code), added)

    dense = code.dense()
    by_columns = sae.contribution_of(dense, slice(None), code)
    torch.testing.assert_close(by_columns, added)


def test_a_token_of_zeros_stays_finite_under_a_unit_norm():
    sae = an_sae("relu", token_norm="unit_norm")
    assert torch.isfinite(sae(torch.zeros(2, D_MODEL))).all()


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_a_code_without_the_statistics_that_decoding_needs(x):
    sae = an_sae("jumprelu", token_norm="layer_norm")
    code = sae.encode(x)
    bare = sle.SparseCode(code.values, code.indices, code.d_sae)
    with pytest.raises(sle.InvalidArgument, match="codes of its own encode"):
        sae.decode(bare)


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "with skip"])
@pytest.mark.parametrize("kind", ["topk", "jumprelu", "relu"])
def test_a_transcoder_writes_another_width_than_it_reads(x, kind, skip):
    sae = an_sae(kind, d_out=10, skip_connection=skip)
    expected = dense_by_hand(sae, x, sae.config.k) @ sae.W_dec + sae.b_dec
    if skip:
        expected = expected + x @ sae.W_skip
    torch.testing.assert_close(sae(x), expected)
    torch.testing.assert_close(sae.nested(x, [3])[3], sae(x, 3))


def test_prefix_errors_of_a_transcoder_are_of_its_target(x):
    sae = an_sae("jumprelu", d_out=10, skip_connection=True)
    target = torch.randn(3, 7, 10, dtype=torch.float64)
    errors = sae.prefix_errors(target - sae.skip(x), sae.encode(x))
    expected = (target - sae(x, 3)).square().sum(-1)
    torch.testing.assert_close(errors[..., 3], expected)


@pytest.mark.parametrize("kind", ["topk", *KINDS_WITHOUT_K])
def test_constants_fold_into_weights_and_thresholds(x, kind):
    sae = an_sae(kind, apply_b_dec_to_input=True)
    sae.activation_mean = torch.randn(D_MODEL, dtype=torch.float64)
    sae.activation_scale = torch.tensor(0.25, dtype=torch.float64)
    folded = sae.folded()
    torch.testing.assert_close(folded(x), sae(x))
    back = folded.unfolded(sae.activation_mean, sae.activation_scale)
    for name, tensor in sae.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, msg=name)


def test_gradients_reach_every_weight_of_an_uncapped_code(x):
    sae = an_sae("jumprelu", d_out=10, skip_connection=True)
    x.requires_grad_()
    sae(x).square().sum().backward()
    names = ["W_enc", "b_enc", "W_dec", "b_dec", "W_skip"]
    grads = [getattr(sae, name).grad for name in names]

    sae.zero_grad()
    pre = x @ sae.W_enc + sae.b_enc
    acts = torch.where((pre > sae.threshold) & (pre > 0), pre, 0)
    (acts @ sae.W_dec + sae.b_dec + x @ sae.W_skip).square().sum().backward()
    for name, grad in zip(names, grads, strict=True):
        torch.testing.assert_close(grad, getattr(sae, name).grad, msg=name)


def _float16_twins(kind, **config):
    """An SAE in float16, and one in float32 with the same rounded weights."""
    half = an_sae(kind, **config).half()
    return half, copy.deepcopy(half).float()


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
@torch.no_grad()
def test_float16_computes_in_float32_what_it_cannot_hold(kind):
    half, wide = _float16_twins(kind)
    x = torch.randn(4, D_MODEL)
    # Beyond float16 itself; and within, but not what is computed from it.
    for large in (90_000.0, 60_000.0):
        x[2, 5] = large
        assert torch.isfinite(half(x)).all()
        torch.testing.assert_close(half(x).float(), wide(x), rtol=1e-2, atol=0.5)
        errors = half.prefix_errors(x, half.encode(x, 8))
        torch.testing.assert_close(
            errors.float(), wide.prefix_errors(x, wide.encode(x, 8)), rtol=1e-2, atol=1
        )


@torch.no_grad()
def test_float16_adds_in_float32_what_it_cannot_hold():
    half, wide = _float16_twins("relu", d_out=10, skip_connection=True)
    x = torch.full((2, D_MODEL), 30_000.0)
    for twin in (half, wide):
        assert torch.isfinite(twin.skip(x)).all()
    torch.testing.assert_close(half.skip(x), wide.skip(x))

    code = half.encode(x)
    expected = wide.encode(x)
    torch.testing.assert_close(
        half.contribution(code).float(), wide.contribution(expected), rtol=1e-2, atol=1
    )
    acts = torch.full((2, D_SAE), 30_000.0, dtype=torch.float16)
    torch.testing.assert_close(
        half.contribution_of(acts, slice(None)),
        wide.contribution_of(acts.float(), slice(None)),
    )


def test_rejects_what_is_not_finite_in_float16_too():
    half, _ = _float16_twins("topk")
    x = torch.randn(4, D_MODEL)
    x[1, 1] = float("inf")
    with pytest.raises(sle.NonFinite, match="1 of 64 numbers in the activations"):
        half(x)


def test_casting_an_sae_to_float16_refuses_weights_beyond_it(tmp_path):
    sae = an_sae("topk")
    with torch.no_grad():
        sae.b_dec[0] = 1e6
    sae.save_pretrained(tmp_path / "sae")
    with pytest.raises(sle.NonFinite, match="b_dec of this SAE"):
        sle.SAE.from_pretrained(tmp_path / "sae", dtype="float16")
    assert sle.SAE.from_pretrained(tmp_path / "sae").b_dec[0] == 1e6


def test_folding_in_float16_refuses_weights_beyond_it():
    sae = an_sae("topk").half()
    sae.activation_scale = torch.tensor(1e-5, dtype=torch.float16)
    with torch.no_grad():
        sae.b_enc.fill_(100)
    with pytest.raises(sle.NonFinite, match="b_enc of this SAE"):
        sae.folded()
