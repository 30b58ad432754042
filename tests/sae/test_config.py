"""A config checks its fields, and knows which k an SAE can serve."""

import dataclasses

import numpy
import pytest

import sae_lens_ext as sle


def _config(**changes):
    return sle.SAEConfig(**{"d_model": 4, "d_sae": 8, "k": 4, **changes})


def test_checks_sizes_k_and_levels():
    with pytest.raises(
        sle.InvalidArgument, match="d_sae must be a positive integer; got 0"
    ):
        sle.SAEConfig(d_model=4, d_sae=0, k=1)
    with pytest.raises(
        sle.InvalidK, match="k must be an integer from 1 to d_sae=8; got 9"
    ):
        sle.SAEConfig(d_model=4, d_sae=8, k=9)
    with pytest.raises(
        sle.InvalidArgument,
        match=r"levels must rise from at least 1 to k=4 without repeats; got \(1, 3\)",
    ):
        sle.SAEConfig(d_model=4, d_sae=8, k=4, levels=(1, 3))
    assert sle.SAEConfig(d_model=4, d_sae=8, k=4).levels == (4,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sle.SAEConfig(d_model=4, d_sae=8, k=4).k = 3


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_metadata_that_is_not_a_mapping():
    with pytest.raises(
        sle.InvalidArgument, match="metadata must be a mapping of JSON values; got None"
    ):
        sle.SAEConfig(d_model=4, d_sae=8, k=2, metadata=None)


@pytest.mark.usefixtures("without_shape_checks")
def test_reports_all_invalid_fields_at_once():
    with pytest.raises(
        sle.InvalidArgument,
        match="d_model must be a positive integer; got -1; hook_name must be a string; "
        "got 5; apply_b_dec_to_input must be True or False; got 'no'; "
        "exclude_special_tokens must be True, False, or a list of token ids; got 'yes'",
    ):
        _config(
            d_model=-1,
            hook_name=5,
            apply_b_dec_to_input="no",
            exclude_special_tokens="yes",
        )


@pytest.mark.usefixtures("without_shape_checks")
def test_numbers_become_those_of_python():
    config = _config(k=numpy.int64(4), levels=numpy.array([1, 4]))
    assert config == _config(levels=(1, 4))
    assert type(config.k) is int
    assert config.levels == (1, 4)


@pytest.mark.parametrize("levels", [(4, 4), (4, 2), (0, 4), (1, 2)])
def test_rejects_levels_that_do_not_rise_to_k(levels):
    with pytest.raises(sle.InvalidArgument, match="levels must rise from at least 1"):
        _config(levels=levels)


def test_the_default_k_is_the_trained_maximum():
    assert _config().checked_k(None) == 4
    assert _config().checked_k(8, extrapolate=True) == 8
    assert _config().checked_ks([4, 1]) == [4, 1]


def test_only_facts_can_be_changed():
    config = _config()
    assert config.with_changes(model_name="tiny") == _config(model_name="tiny")
    with pytest.raises(sle.InvalidArgument, match="d_model, d_sae belong to the"):
        config.with_changes(d_sae=9, d_model=3)


@pytest.mark.parametrize("kind", ["jumprelu", "batchtopk", "relu"])
def test_a_kind_without_k_has_no_default_and_takes_any(kind):
    config = sle.SAEConfig(d_model=4, d_sae=8, kind=kind)
    assert config.k is None
    assert config.levels == ()
    assert config.checked_ks([None, 8]) == [None, 8]
    with pytest.raises(
        sle.InvalidK,
        match=f"an SAE of kind {kind} was not trained at one: pass a k from 1 to",
    ):
        _ = config.trained_k


def test_k_is_required_for_topk_and_rejected_for_other_kinds():
    with pytest.raises(sle.InvalidK, match="k must be an integer from 1 to d_sae=8"):
        sle.SAEConfig(d_model=4, d_sae=8)
    with pytest.raises(
        sle.InvalidArgument, match="k and levels belong to the kind topk"
    ):
        _config(kind="jumprelu")
    with pytest.raises(
        sle.InvalidArgument, match="k and levels belong to the kind topk"
    ):
        sle.SAEConfig(d_model=4, d_sae=8, kind="relu", levels=(1, 2))


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_unknown_kinds_and_norms():
    with pytest.raises(
        sle.InvalidArgument,
        match="kind must be one of topk, jumprelu, batchtopk, relu; got 'gated'; "
        "token_norm must be one of none, layer_norm, unit_norm; got 'whitening'",
    ):
        _config(kind="gated", token_norm="whitening")


def test_only_an_autoencoder_has_a_pre_bias_by_default():
    assert _config().apply_b_dec_to_input is True
    transcoder = _config(d_out=6)
    assert transcoder.apply_b_dec_to_input is False
    assert transcoder.is_transcoder
    assert (_config().output_width, transcoder.output_width) == (4, 6)


def test_rejects_fields_that_a_transcoder_cannot_have():
    with pytest.raises(
        sle.InvalidArgument,
        match="token_norm must be 'none' for a transcoder; got 'unit_norm'; "
        "apply_b_dec_to_input must be False for a transcoder that reads width 4 and "
        "writes width 6",
    ):
        _config(d_out=6, token_norm="unit_norm", apply_b_dec_to_input=True)


def test_rejects_fields_of_a_transcoder_in_an_autoencoder():
    with pytest.raises(
        sle.InvalidArgument,
        match="hook_name_out='blocks.1.hook_mlp_out' is for a transcoder; give its "
        "d_out too; skip_connection=True is for a transcoder",
    ):
        _config(hook_name_out="blocks.1.hook_mlp_out", skip_connection=True)
