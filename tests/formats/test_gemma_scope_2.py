"""Gemma Scope 2: with a config or without, and what cannot be read is named."""

import published_saes as saes
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats import read_sae

REPO = "gemma-scope-2-1b-it"
SKIP = torch.randn(saes.D_MODEL, saes.D_MODEL)


def _read(place, config=None, **changes):
    tensors = saes.matrices(**changes)
    lower = {name.replace("W_", "w_"): tensors[name] for name in tensors}
    saes.write(place / "params.safetensors", lower)
    if config is not None:
        saes.write(place / "config.json", config)
    return read_sae(place)


def _config(**changes):
    return {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-1b-it",
        "hf_hook_point_in": "model.layers.7.output",
        "l0": 20,
        "affine_connection": False,
        **changes,
    }


@pytest.mark.parametrize(
    ("part", "hook_name", "path"),
    [
        ("resid_post", "blocks.7.hook_resid_post", "model.layers.7.output"),
        ("resid_post_all", "blocks.7.hook_resid_post", "model.layers.7.output"),
        (
            "attn_out_all",
            "blocks.7.attn.hook_z",
            "model.layers.7.self_attn.o_proj.input",
        ),
        (
            "mlp_out",
            "blocks.7.hook_mlp_out",
            "model.layers.7.post_feedforward_layernorm.output",
        ),
        (
            "transcoder_all",
            "blocks.7.mlp.hook_in",
            "model.layers.7.pre_feedforward_layernorm.output",
        ),
    ],
)
@pytest.mark.parametrize("has_config", [False, True])
def test_config_and_names_say_the_same(tmp_path, part, hook_name, path, has_config):
    place = tmp_path / REPO / part / "layer_7_width_16k_l0_small"
    config = _config(hf_hook_point_in=path) if has_config else None
    checkpoint = _read(place, config)
    assert checkpoint.metadata["model_name"] == "google/gemma-3-1b-it"
    assert checkpoint.metadata["hook_name"] == hook_name
    assert checkpoint.metadata["hf_hook_name"] == path
    assert checkpoint.metadata["exclude_special_tokens"] is True
    is_transcoder = part.startswith("transcoder")
    assert checkpoint.d_out == (saes.D_MODEL if is_transcoder else None)
    if is_transcoder:
        facts = {key: checkpoint.metadata[key] for key in checkpoint.metadata}
        assert facts["hook_name_out"] == "blocks.7.hook_mlp_out"
        assert facts["hf_hook_name_out"].endswith("post_feedforward_layernorm.output")
        assert facts["sae_lens_hook_name"] == "blocks.7.hook_mlp_in"


def test_the_config_is_enough_where_folders_were_renamed(tmp_path):
    path = "model.layers.7.self_attn.o_proj.input"
    checkpoint = _read(tmp_path / "copy", _config(hf_hook_point_in=path))
    assert checkpoint.metadata["hook_name"] == "blocks.7.attn.hook_z"
    assert checkpoint.metadata["reshape_activations"] == "hook_z"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("google/gemma-3-270m-pt", "google/gemma-3-270m"),
        ("gemma-v3-4b-pt", "google/gemma-3-4b-pt"),
    ],
)
def test_the_names_of_models_are_those_of_their_repositories(tmp_path, name, expected):
    checkpoint = _read(tmp_path, _config(model_name=name))
    assert checkpoint.metadata["model_name"] == expected


def test_an_affine_part_is_read_the_way_it_is_used(tmp_path):
    place = tmp_path / REPO / "transcoder_all" / "layer_7_width_16k_l0_big_affine"
    checkpoint = _read(place, affine_skip_connection=SKIP)
    assert torch.equal(checkpoint.tensors["W_skip"], SKIP)


@pytest.mark.parametrize(
    ("place", "config", "changes", "message"),
    [
        (
            "crosscoder/layer_7_16k",
            None,
            {},
            "a crosscoder, which reads and writes many",
        ),
        (
            "clt/width_262k",
            None,
            {},
            "a cross-layer transcoder, which writes many laye",
        ),
        ("x", _config(type="crosscoder"), {}, "holds a crosscoder"),
        (
            "x",
            None,
            {"W_dec": torch.zeros(saes.D_SAE, 3, saes.D_MODEL)},
            "a cross-layer transcoder, which writes many layers",
        ),
        ("x", _config(architecture="topk"), {}, "describes architecture 'topk'; this"),
        (
            "transcoder/layer_7_width_16k_l0_big_affine",
            None,
            {},
            "should hold affine_skip_connection, by its config or name, and does not",
        ),
        (
            "transcoder/layer_7_width_16k_l0_big",
            _config(affine_connection=True),
            {},
            "should hold affine_skip_connection, by its config or name, and does not",
        ),
        (
            "transcoder/layer_7",
            _config(affine_connection="yes"),
            {},
            "affine_connection must be true or false; it is 'yes'",
        ),
        (
            "resid_post/layer_7",
            None,
            {"affine_skip_connection": SKIP},
            "must hold exactly",
        ),
        (
            "resid_post/layer_7",
            None,
            {"threshold": ...},
            "must hold exactly b_dec, b_enc",
        ),
    ],
)
def test_rejects_what_it_cannot_compute(tmp_path, place, config, changes, message):
    with pytest.raises(sle.FormatError, match=message):
        _read(tmp_path / place, config, **changes)
