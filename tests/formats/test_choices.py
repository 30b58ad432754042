"""From a listing of files: which are SAEs, and which of them one SAE needs."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.formats.choices import needed_files, saes_among

REPOSITORIES = {
    "SAELens": [
        "README.md",
        "a/cfg.json",
        "a/sae_weights.safetensors",
        "a/sparsity.safetensors",
        "b/cfg.json",
        "b/sae_weights.safetensors",
        "b/activation_scaler.json",
    ],
    "Gemma Scope": [
        "layer_1/width_16k/average_l0_5/params.npz",
        "layer_1/width_16k/average_l0_5/README.md",
        "layer_2/width_16k/average_l0_7/params.npz",
    ],
    "Gemma Scope 2": [
        "transcoder/layer_1_width_16k_l0_small/config.json",
        "transcoder/layer_1_width_16k_l0_small/params.safetensors",
        "transcoder/layer_2_width_16k_l0_small/params.safetensors",
    ],
    "Qwen-Scope": ["config.json", "layer0.sae.pt", "layer1.sae.pt"],
    "sparsify": [
        "config.json",
        "layers.0/cfg.json",
        "layers.0/sae.safetensors",
        "layers.1/cfg.json",
        "layers.1/sae.safetensors",
    ],
    "dictionary_learning": [
        "sweep/resid_post_layer_1/trainer_0/ae.pt",
        "sweep/resid_post_layer_1/trainer_0/config.json",
        "sweep/resid_post_layer_1/trainer_0/checkpoints/ae_100.pt",
        "sweep/resid_post_layer_1/trainer_1/ae.pt",
        "sweep/resid_post_layer_1/trainer_1/config.json",
    ],
    "Llama Scope": [
        "L0R/hyperparams.json",
        "L0R/checkpoints/final.safetensors",
        "L0R/lm_config.json",
        "L1R/hyperparams.json",
        "L1R/checkpoints/final.safetensors",
    ],
    "circuit-tracer": [
        "config.yaml",
        "features/layer_0.bin",
        "layer_0.safetensors",
        "layer_1.safetensors",
    ],
    "Goodfire": ["README.md", "Llama-3.1-8B-Instruct-SAE-l19.pth"],
}


@pytest.mark.parametrize(
    ("name", "subfolder", "needed"),
    [
        ("SAELens", "a", ["a/cfg.json", "a/sae_weights.safetensors"]),
        ("SAELens", "b", REPOSITORIES["SAELens"][4:]),
        ("SAELens", "a/sae_weights.safetensors", REPOSITORIES["SAELens"][1:3]),
        (
            "Gemma Scope",
            "layer_1/width_16k/average_l0_5",
            REPOSITORIES["Gemma Scope"][:1],
        ),
        (
            "Gemma Scope",
            "layer_1/width_16k/average_l0_5/params.npz",
            REPOSITORIES["Gemma Scope"][:1],
        ),
        (
            "Gemma Scope 2",
            "transcoder/layer_1_width_16k_l0_small",
            REPOSITORIES["Gemma Scope 2"][:2],
        ),
        ("Qwen-Scope", "layer1.sae.pt", ["layer1.sae.pt"]),
        ("sparsify", "layers.1", ["config.json", *REPOSITORIES["sparsify"][3:]]),
        (
            "dictionary_learning",
            "sweep/resid_post_layer_1/trainer_0",
            REPOSITORIES["dictionary_learning"][:2],
        ),
        (
            "Llama Scope",
            "L1R",
            ["L1R/checkpoints/final.safetensors", "L1R/hyperparams.json"],
        ),
        (
            "circuit-tracer",
            "layer_1.safetensors",
            ["config.yaml", "layer_1.safetensors"],
        ),
        ("Goodfire", None, ["Llama-3.1-8B-Instruct-SAE-l19.pth"]),
    ],
)
def test_only_the_files_of_one_sae_are_needed(name, subfolder, needed):
    assert sorted(needed_files("o/r", REPOSITORIES[name], subfolder)) == sorted(needed)


@pytest.mark.parametrize(
    ("name", "subfolder", "message"),
    [
        ("SAELens", None, "o/r holds 2 SAE folders; choose .*, such as 'a', 'b'$"),
        (
            "Gemma Scope",
            "layer_1",
            "o/r/layer_1 holds 1 SAE folders; choose .*'layer_1/w",
        ),
        (
            "Qwen-Scope",
            None,
            "holds 2 SAE files; choose one .* 'layer0.sae.pt', 'layer1",
        ),
        (
            "circuit-tracer",
            None,
            "holds 2 SAE files; choose one .* 'layer_0.safetensors'",
        ),
        ("circuit-tracer", "features", "o/r/features holds no SAE of a known layout"),
        ("Goodfire", "layer_3", "o/r/layer_3 holds no SAE of .*; it holds no files"),
    ],
)
def test_says_how_to_choose(name, subfolder, message):
    with pytest.raises(sle.FormatError, match=message):
        needed_files("o/r", REPOSITORIES[name], subfolder)


def test_an_unknown_layout_names_the_files_that_were_looked_for_and_those_there():
    files = [f"part_{number}.bin" for number in range(20)]
    with pytest.raises(sle.FormatError, match="o/r holds no SAE") as error:
        needed_files("o/r", files, None)
    message = str(error.value)
    for name in ("cfg.json", "params.npz", "ae.pt", "hyperparams.json", "*.pt"):
        assert name in message
    assert "it holds part_0.bin, part_1.bin" in message
    assert message.endswith(", ...")


def test_the_parts_of_a_cross_layer_transcoder_are_no_saes():
    files = ["W_enc_0.safetensors", "W_dec_0.safetensors"]
    assert saes_among(files) == []
    with pytest.raises(sle.FormatError, match="holds a cross-layer transcoder"):
        needed_files("o/r", files, None)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("clt/width_262k_l0_medium", "a cross-layer transcoder, which writes many"),
        (
            "crosscoder/layer_7_13_width_16k",
            "a crosscoder, which reads and writes many",
        ),
    ],
)
def test_families_of_many_layers_are_named(folder, message):
    files = [f"{folder}/params_layer_{layer}.safetensors" for layer in range(3)]
    for subfolder in (folder, files[0]):
        with pytest.raises(sle.FormatError, match=message):
            needed_files("google/gemma-scope-2-1b-pt", files, subfolder)
