"""Sets of transcoders: the sites from the config, and what is refused by name."""

import published_saes as saes
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats import read_sae

THRESHOLD = "activation_function.threshold"
CONFIG = """\
model_name: "google/gemma-2-2b"
model_kind: transcoder_set
feature_input_hook: 'ln2.hook_normalized'  # before the gain
feature_output_hook: hook_mlp_out
transcoders:
  - hf://owner/repo/layer_0
"""


def _write(place, config=CONFIG, layer=7, **changes):
    tensors = saes.matrices(threshold=..., **changes)
    tensors["W_enc"] = tensors["W_enc"].T.contiguous()
    if config is not None:
        saes.write(place / "config.yaml", config)
    return saes.write(place / f"layer_{layer}.safetensors", tensors)


def test_the_config_says_the_sites(tmp_path):
    checkpoint = read_sae(_write(tmp_path))
    assert (checkpoint.kind, checkpoint.d_out) == ("relu", saes.D_MODEL)
    assert checkpoint.metadata == {
        "trained_with": "circuit-tracer",
        "model_name": "google/gemma-2-2b",
        "hook_name": "blocks.7.ln2.hook_normalized",
        "hook_name_out": "blocks.7.hook_mlp_out",
    }


def test_without_a_config_the_names_may_say_it(tmp_path):
    assert "hook_name" not in read_sae(_write(tmp_path, config=None)).metadata
    place = tmp_path / "models--mwhanna--qwen3-14b-transcoders" / "snapshots" / "01"
    metadata = read_sae(_write(place, config=None)).metadata
    assert metadata["model_name"] == "Qwen/Qwen3-14B"
    assert metadata["hook_name"] == "blocks.7.mlp.hook_in"


def test_a_set_says_how_to_choose_a_layer(tmp_path):
    for layer in range(7):
        _write(tmp_path, layer=layer)
    with pytest.raises(
        sle.FormatError,
        match="holds 7 SAE files; choose one with subfolder=, such as 'layer_0.",
    ):
        read_sae(tmp_path)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ("model_kind: cross_layer_transcoder", {}, "holds a cross-layer transcoder"),
        (
            "model_kind: lorsa",
            {},
            "model_kind is 'lorsa'; this reader knows 'transcoder_s",
        ),
        ("k: 32", {}, "sets k to '32'; this reader knows ReLU, JumpReLU, and TopK as"),
        ("activation: topk\nk: all", {}, "sets k to 'all'; this reader knows"),
        ("activation: topk\nk: 0", {}, "is for TopK with k=0, of which circuit-tracer"),
        (
            "activation: topk\nk: 32",
            {},
            "keeps negative activations too.* features of zeros; it ends in 0",
        ),
        ("activation_function: topk", {}, "sets activation_function to 'topk'"),
        (
            CONFIG,
            {THRESHOLD: torch.full((saes.D_SAE,), -0.1)},
            "threshold has negative values, which let negative activations pass",
        ),
        (CONFIG, {"log_thresholds": torch.zeros(3)}, "must hold exactly W_dec, W_enc"),
        (CONFIG, {"W_skip": torch.zeros(3, 3)}, r"W_skip must be \[6, 6\], by W_enc"),
    ],
)
def test_rejects_what_it_cannot_compute(tmp_path, config, changes, message):
    with pytest.raises(sle.FormatError, match=message):
        read_sae(_write(tmp_path, config, **changes))


@pytest.mark.parametrize("chosen", ["", "W_enc_0.safetensors"])
def test_rejects_cross_layer_transcoders(tmp_path, chosen):
    for name in ("W_enc_0", "W_dec_0"):
        saes.write(tmp_path / f"{name}.safetensors", {name: torch.zeros(3)})
    with pytest.raises(sle.FormatError, match="a cross-layer transcoder, which writes"):
        read_sae(tmp_path / chosen)


def test_a_config_of_long_lines_is_read_at_once(tmp_path):
    config = "model_name: x" + " " * 300_000 + "y\n" + ":" * 300_000
    assert read_sae(_write(tmp_path, config)).kind == "relu"


def test_rejects_a_config_that_is_not_text(tmp_path):
    file = _write(tmp_path)
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(sle.FormatError, match="config.yaml cannot be read"):
        read_sae(file)
