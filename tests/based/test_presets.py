"""Presets have the published sizes.

Parameters are counted on the meta device, where they take no memory.
"""

import published
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.based import PRESETS, BasedConfig, BasedForCausalLM, preset
from sae_lens_ext.experiments.recall import MQAR, Recipe, model_for


def n_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(config):
    with torch.device("meta"):
        return BasedForCausalLM(config)


@pytest.mark.parametrize("name", PRESETS)
def test_has_the_published_number_of_parameters(name):
    assert n_parameters(on_meta(preset(name))) == published.PARAMETERS[name]


def test_every_published_size_is_a_preset():
    assert list(PRESETS) == list(published.PARAMETERS)


@pytest.mark.parametrize(
    ("d_model", "expected"),
    [(64, 577_984), (128, 1_179_520), (256, 2_459_392), (512, 5_307_904)],
)
def test_models_of_the_synthetic_task_have_the_published_number_of_parameters(
    d_model, expected
):
    task = MQAR(seq_len=256)
    with torch.device("meta"):
        based = model_for(Recipe(kernel="based", d_model=d_model), task)
        rebased = model_for(Recipe(kernel="rebased", d_model=d_model), task)
    assert n_parameters(based) == expected
    assert n_parameters(rebased) == expected + 768


def test_the_norm_of_fla_has_32_parameters_per_layer():
    model = on_meta(preset("rebased-small", norm_layout="shared"))
    assert n_parameters(model) == published.PARAMETERS["based-small"] + 9 * 32


def test_defaults_of_the_config_are_the_language_model_of_the_paper():
    assert preset("rebased-small").to_dict() == BasedConfig().to_dict()


def test_a_changed_field_leaves_the_preset_as_it_was():
    assert preset("based-360m", sliding_window=128).sliding_window == 128
    preset("based-360m").layer_types.clear()
    assert preset("based-360m").sliding_window == 64
    assert len(preset("based-360m").layer_types) == 27


def test_rejects_an_unknown_name():
    message = (
        "name must be one of based-360m, based-1.3b, .*, rebased-360m; got 'based-7b'$"
    )
    with pytest.raises(sle.InvalidArgument, match=message):
        preset("based-7b")


def test_rejects_an_unknown_field():
    message = "BasedConfig has no field hidden_sizes; the closest are hidden_size"
    with pytest.raises(sle.InvalidArgument, match=message):
        preset("based-360m", hidden_sizes=8)
