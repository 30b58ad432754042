"""OpenAI's SAEs of GPT-2: the definition, step by step, and what is refused."""

import checkpoints
import published_saes as saes
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats import read_sae

FILE = "resid_post_mlp_v5_32k/autoencoders/8.pt"


def _state_dict(**changes):
    weights = saes.matrices()
    values = {
        "pre_bias": weights["b_dec"],
        "latent_bias": weights["b_enc"],
        "encoder.weight": weights["W_enc"].T.contiguous(),
        "decoder.weight": weights["W_dec"].T.contiguous(),
        "stats_last_nonzero": torch.zeros(saes.D_SAE, dtype=torch.long),
        "activation": "TopK",
        "activation_state_dict": {"k": 4, "postact_fn": "ReLU"},
        **changes,
    }
    return {name: value for name, value in values.items() if value is not ...}


def test_topk_normalises_every_token(tmp_path):
    checkpoint = read_sae(saes.write(tmp_path / FILE, _state_dict()))
    assert (checkpoint.kind, checkpoint.k) == ("topk", 4)
    assert checkpoint.metadata["hook_name"] == "blocks.8.hook_resid_post"

    weights = saes.matrices()
    x = 3 * torch.randn(20, saes.D_MODEL) + 1
    mean = x.mean(-1, keepdim=True)
    std = (x - mean).std(-1, keepdim=True)
    u = (x - mean) / (std + 1e-5) - weights["b_dec"]
    values, indices = (u @ weights["W_enc"] + weights["b_enc"]).topk(4)
    latents = torch.zeros(20, saes.D_SAE).scatter(-1, indices, values.relu())
    expected = (latents @ weights["W_dec"] + weights["b_dec"]) * std + mean
    torch.testing.assert_close(
        checkpoints.reconstructed(checkpoint, x), expected, rtol=0, atol=1e-5
    )


def test_relu_does_not(tmp_path):
    values = _state_dict(activation="ReLU", activation_state_dict={})
    checkpoint = read_sae(saes.write(tmp_path / FILE, values))
    assert (checkpoint.kind, checkpoint.token_norm) == ("relu", "none")
    # The first releases did not name it.
    older = _state_dict(activation=..., activation_state_dict=...)
    assert read_sae(saes.write(tmp_path / FILE, older)).kind == "relu"


def test_a_tied_decoder_is_the_encoder_again(tmp_path):
    encoder = _state_dict()["encoder.weight"]
    tied = _state_dict(**{"decoder.weight": ..., "decoder.linear.weight": encoder})
    checkpoint = read_sae(saes.write(tmp_path / FILE, tied))
    assert torch.equal(checkpoint.tensors["W_dec"], encoder)


@pytest.mark.parametrize(
    ("place", "hook_name"),
    [
        ("resid_post_attn_v5_128k/autoencoders/3.pt", "blocks.3.hook_resid_mid"),
        ("resid_delta_mlp/autoencoders/11.pt", "blocks.11.hook_mlp_out"),
        ("resid_delta_attn_v5_32k/autoencoders/0.pt", "blocks.0.hook_attn_out"),
        ("mlp_post_act_v4/autoencoders/5.pt", "blocks.5.mlp.hook_post"),
        ("elsewhere/5.pt", None),
    ],
)
def test_the_names_of_the_folders_say_the_site(tmp_path, place, hook_name):
    checkpoint = read_sae(saes.write(tmp_path / place, _state_dict()))
    assert checkpoint.metadata.get("hook_name") == hook_name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"activation": "GELU"},
            "activation is 'GELU'; this reader knows 'ReLU' and 'T",
        ),
        ({"activation": 3}, "activation is 3"),
        ({"activation_state_dict": 3}, "activation_state_dict must hold .* it is 3"),
        (
            {"activation_state_dict": {"k": 4, "postact_fn": "Identity"}},
            "postact_fn is 'Identity'; this reader knows 'ReLU'",
        ),
        ({"activation_state_dict": {}}, "k must be a positive integer; it is None"),
        ({"encoder.weight": ...}, "must hold exactly decoder.weight, encoder.weight"),
        ({"decoder.weight": ...}, "must hold exactly decoder.weight, encoder.weight"),
        ({"encoder.weight": "text"}, "must be tensors"),
    ],
)
def test_rejects_other_activations_and_names(tmp_path, changes, message):
    with pytest.raises(sle.FormatError, match=message):
        read_sae(saes.write(tmp_path / FILE, _state_dict(**changes)))
