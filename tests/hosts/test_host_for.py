"""The adapter is chosen by the object that arrives."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("lens", "LensHost"),
        ("torch", "TorchHost"),
        ("nnsight", "NNsightHost"),
        ("transformers_model", "NNsightHost"),
    ],
)
def test_chooses_the_adapter_by_library(name, adapter):
    assert type(host_for(tiny.hosted(name))).__name__ == adapter


def test_recognises_a_subclass_by_the_library_it_derives_from():
    class Mine(torch.nn.Sequential):
        pass

    assert type(host_for(Mine())).__name__ == "TorchHost"


@pytest.mark.parametrize(
    "model", ["gpt2", None, torch.ones(2), torch.tensor(1), []], ids=str
)
def test_rejects_an_object_of_no_supported_library(model):
    with pytest.raises(
        sle.UnsupportedHost,
        match="cannot read activations of an object of type .*give a TransformerLens "
        "model, an nnsight model, or a",
    ):
        host_for(model)


@pytest.mark.parametrize("form", [lambda sae: sae, lambda sae: [sae], lambda s: {1: s}])
def test_an_sae_in_the_place_of_the_model_is_named(form):
    sae = tiny.sae()
    with pytest.raises(sle.UnsupportedHost, match="give the language model first"):
        sle.splice(form(sae), sae)
