"""Transcoders are written for circuit-tracer and come back as they were."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITES = {
    "hook_name": "blocks.1.mlp.hook_in",
    "hook_name_out": "blocks.1.hook_mlp_out",
}


def test_a_transcoder_comes_back_as_it_was(tmp_path):
    made = tiny.sae_of_kind("topk", d_out=32, skip_connection=True, **SITES).float()
    folder = sle.save_circuit_tracer(made, tmp_path)
    again = sle.SAE.from_pretrained(folder)
    x = torch.randn(6, 32)
    assert torch.equal(again(x), made(x))
    assert (again.config.k, again.config.d_sae) == (8, 48)
    assert again.config.hook_name == SITES["hook_name"]


def test_k_is_that_of_the_config(tmp_path):
    made = tiny.sae_of_kind("topk", d_out=32, **SITES)
    folder = sle.save_circuit_tracer([made], tmp_path, k=3)
    assert sle.SAE.from_pretrained(folder).config.k == 3


def test_a_transcoder_is_found_among_the_layers_of_a_model(tmp_path):
    made = tiny.sae_of_kind("topk", d_out=32, **SITES).float()
    folder = sle.save_circuit_tracer(made, tmp_path, n_layers=3)
    again = sle.SAE.from_pretrained(folder, subfolder="layer_1.safetensors")
    x = torch.randn(6, 32)
    assert torch.equal(again(x), made(x))


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_other_objects_and_autoencoders(tmp_path):
    with pytest.raises(sle.InvalidArgument, match="as SAE objects; got .* type str"):
        sle.save_circuit_tracer(["sae"], tmp_path)
    with pytest.raises(sle.InvalidArgument, match="got an autoencoder"):
        sle.save_circuit_tracer(tiny.sae(), tmp_path)
