"""The published models by name: their parameters are counted on the meta device, where they take no memory."""

import published
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.based import PRESETS, BasedConfig, BasedForCausalLM, preset
from sae_lens_ext.experiments.recall import MQAR, Recipe, model_for


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(config):
    with torch.device("meta"):
        return BasedForCausalLM(config)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert count(on_meta(preset(name))) == published.PARAMETERS[name]


def test_every_published_size_is_a_preset():
    assert list(PRESETS) == list(published.PARAMETERS)


@pytest.mark.parametrize(
    ("d_model", "wanted"),
    [(64, 577_984), (128, 1_179_520), (256, 2_459_392), (512, 5_307_904)],
)
def test_the_models_of_the_synthetic_task_have_the_published_number_of_parameters(
    d_model, wanted
):
    task = MQAR(seq_len=256)
    with torch.device("meta"):
        based, rebased = (
            model_for(Recipe(kernel=kernel, d_model=d_model), task)
            for kernel in ("based", "rebased")
        )
    assert count(based) == wanted
    assert count(rebased) == wanted + 768


def test_the_norm_as_in_fla_has_32_parameters_a_layer():
    assert (
        count(on_meta(preset("rebased-small", norm_layout="shared")))
        == published.PARAMETERS["based-small"] + 9 * 32
    )


def test_the_defaults_of_the_config_are_the_paper_s_language_model():
    assert preset("rebased-small").to_dict() == BasedConfig().to_dict()


def test_a_field_of_a_preset_can_be_changed_without_changing_the_preset():
    assert preset("based-360m", sliding_window=128).sliding_window == 128
    preset("based-360m").layer_types.clear()
    assert preset("based-360m").sliding_window == 64
    assert len(preset("based-360m").layer_types) == 27


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(
        sle.InvalidArgument,
        match="no preset 'based-7b'; there are based-360m, based-1.3b, .*, rebased-360m$",
    ):
        preset("based-7b")
