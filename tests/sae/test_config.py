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
