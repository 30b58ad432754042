"""Llama Scope: the scales of the activations, the kinds, and what is refused."""

import checkpoints
import published_saes as saes
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats import read_sae

HYPERPARAMS = {
    "act_fn": "jumprelu",
    "d_model": saes.D_MODEL,
    "d_sae": saes.D_SAE,
    "dataset_average_activation_norm": {"in": 4.0, "out": 8.0},
    "hook_point_in": "blocks.3.ln2.hook_normalized",
    "hook_point_out": "blocks.3.hook_mlp_out",
    "jump_relu_threshold": 0.5,
    "norm_activation": "dataset-wise",
}


def _write(place, tensors=None, **changes):
    changed = {**HYPERPARAMS, **changes}
    stated = {key: value for key, value in changed.items() if value is not ...}
    saes.write(place / "hyperparams.json", stated)
    weights = saes.linear_layers() | (tensors or {})
    saes.write(place / "checkpoints" / "final.safetensors", weights)
    return place


def test_a_transcoder_has_a_scale_of_what_it_reads_and_of_what_it_writes(tmp_path):
    checkpoint = read_sae(_write(tmp_path))
    assert checkpoint.d_out == saes.D_MODEL
    assert checkpoint.metadata["hook_name_out"] == "blocks.3.hook_mlp_out"
    weights = saes.matrices()
    scale_in = saes.D_MODEL**0.5 / 4
    scale_out = saes.D_MODEL**0.5 / 8
    x = torch.randn(9, saes.D_MODEL)
    pre = (x * scale_in) @ weights["W_enc"] + weights["b_enc"]
    acts = pre.relu() * (pre > 0.5 * scale_in)
    expected = (acts @ weights["W_dec"] + weights["b_dec"]) / scale_out
    torch.testing.assert_close(checkpoints.reconstructed(checkpoint, x), expected)


def _site(**changes):
    """Changes that make it an autoencoder."""
    norms = {"in": 4.0, "out": 4.0}
    site = "blocks.3.hook_resid_post"
    return {
        "hook_point_in": site,
        "hook_point_out": site,
        "dataset_average_activation_norm": norms,
        **changes,
    }


@pytest.mark.parametrize("counts_norms", [False, True])
def test_topk_may_choose_by_the_norm_of_decoder_rows(tmp_path, counts_norms):
    changes = _site(
        act_fn="topk",
        top_k=3,
        sparsity_include_decoder_norm=counts_norms,
        norm_activation="inference",
        apply_decoder_bias_to_pre_encoder=True,
    )
    checkpoint = read_sae(_write(tmp_path, **changes))
    assert (checkpoint.kind, checkpoint.k) == ("topk", 3)
    weights = saes.matrices()
    x = torch.randn(9, saes.D_MODEL)
    pre = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    scores = pre.relu()
    if counts_norms:
        scores = scores * weights["W_dec"].norm(dim=1)
    chosen = torch.zeros_like(pre).scatter(-1, scores.topk(3).indices, 1.0)
    expected = (pre.relu() * chosen) @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(checkpoints.reconstructed(checkpoint, x), expected)


def test_tokens_may_be_normalised_one_by_one(tmp_path):
    changes = _site(act_fn="relu", norm_activation="token-wise")
    assert read_sae(_write(tmp_path, **changes)).token_norm == "unit_norm"


def test_the_second_generation_says_its_scale_in_the_weights(tmp_path):
    place = checkpoints.FIXTURES / "published/fnlp/Llama-Scope-R1-Distill"
    place = place / "800M-Slimpajama-0-OpenR1-Math-220k/L15R"
    config = saes.json.loads((place / "config.json").read_text())
    tensors = checkpoints.load_file(place / "sae_weights.safetensors")
    del tensors["dataset_average_activation_norm.blocks.15.hook_resid_post"]
    saes.write(tmp_path / "config.json", config)
    saes.write(tmp_path / "sae_weights.safetensors", tensors)
    with pytest.raises(
        sle.FormatError, match=r"activation_norm.in is missing: without"
    ):
        read_sae(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"act_fn": "gelu"},
            "act_fn is 'gelu'; this reader knows jumprelu, topk, relu",
        ),
        (
            {"norm_activation": "batch-wise"},
            "norm_activation is 'batch-wise'; this read",
        ),
        ({"use_glu_encoder": True}, "use_glu_encoder is true"),
        ({"d_sae": ...}, "d_sae must be a positive integer; it is None"),
        (
            {"d_model": 7},
            r"encoder.weight must be \[20, 7\], by hyperparams.json; it is",
        ),
        ({"jump_relu_threshold": -1}, "jump_relu_threshold must be a positive number"),
        ({"jump_relu_threshold": ...}, "jump_relu_threshold must be a positive number"),
        ({"hook_point_in": 3}, "hook_point_in must be a string; it is 3"),
        (
            {"dataset_average_activation_norm": ...},
            "dataset_average_activation_norm.in is missing",
        ),
        (
            {"dataset_average_activation_norm": {"in": 0}},
            "dataset_average_activation_norm.in must be a positive number; it is 0",
        ),
        (
            {"apply_decoder_bias_to_pre_encoder": True},
            "dataset_average_activation_norm differs between in and out",
        ),
        ({"norm_activation": "token-wise"}, "a transcoder with the per-token normalis"),
    ],
)
def test_rejects_what_it_cannot_compute(tmp_path, changes, message):
    with pytest.raises(sle.FormatError, match=message):
        read_sae(_write(tmp_path, **changes))
