"""Gemma Scope: what the names of the folders say, and what the file must hold."""

import published_saes as saes
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats import read_sae

FOLDER = "layer_12/width_16k/average_l0_82"


def _read(place, **changes):
    saes.write(place / "params.npz", saes.matrices(**changes))
    return read_sae(place)


@pytest.mark.parametrize(
    ("repo", "facts"),
    [
        (
            "gemma-scope-2b-pt-res",
            {"model_name": "gemma-2-2b", "hook_name": "blocks.12.hook_resid_post"},
        ),
        (
            "gemma-scope-9b-it-res",
            {"model_name": "gemma-2-9b-it", "hook_name": "blocks.12.hook_resid_post"},
        ),
        (
            "gemma-scope-27b-pt-res-canonical",
            {"model_name": "gemma-2-27b", "hook_name": "blocks.12.hook_resid_post"},
        ),
        (
            "gemma-scope-2b-pt-mlp",
            {"model_name": "gemma-2-2b", "hook_name": "blocks.12.hook_mlp_out"},
        ),
        (
            "gemma-scope-9b-pt-att",
            {
                "model_name": "gemma-2-9b",
                "hook_name": "blocks.12.attn.hook_z",
                "reshape_activations": "hook_z",
            },
        ),
        (
            "gemma-scope-2b-pt-transcoders",
            {
                "model_name": "gemma-2-2b",
                "hook_name": "blocks.12.ln2.hook_normalized",
                "hook_name_out": "blocks.12.hook_mlp_out",
            },
        ),
    ],
)
@pytest.mark.parametrize("place", ["{repo}", "models--google--{repo}/snapshots/0123ab"])
def test_the_names_say_model_and_site(tmp_path, repo, place, facts):
    checkpoint = _read(tmp_path / place.format(repo=repo) / FOLDER)
    assert checkpoint.metadata == {
        "trained_with": "Gemma Scope",
        "exclude_special_tokens": True,
        "prepend_bos": True,
        "average_l0": 82,
        **facts,
    }
    is_transcoder = repo.endswith("transcoders")
    assert checkpoint.d_out == (saes.D_MODEL if is_transcoder else None)
    assert checkpoint.kind == "jumprelu"
    assert checkpoint.apply_b_dec_to_input is False


def test_an_embedding_is_read_behind_its_scale(tmp_path):
    place = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k"
    checkpoint = _read(place / "average_l0_6")
    assert checkpoint.metadata["hook_name"] == "hook_embed"
    root = saes.D_MODEL**0.5
    tensors = saes.matrices()
    torch.testing.assert_close(checkpoint.tensors["W_enc"], tensors["W_enc"] / root)
    torch.testing.assert_close(checkpoint.tensors["W_dec"], tensors["W_dec"] * root)


def test_without_its_names_the_site_is_left_to_the_user(tmp_path):
    checkpoint = _read(tmp_path / "copy")
    assert "hook_name" not in checkpoint.metadata
    assert checkpoint.metadata["exclude_special_tokens"] is True


def test_either_spelling_of_the_matrices(tmp_path):
    tensors = saes.matrices()
    lower = {name.replace("W_", "w_"): tensors[name] for name in tensors}
    saes.write(tmp_path / "params.npz", lower)
    assert torch.equal(read_sae(tmp_path).tensors["W_enc"], tensors["W_enc"])


def test_a_scaling_factor_of_ones_is_left_out(tmp_path):
    assert _read(tmp_path, scaling_factor=torch.ones(saes.D_SAE)).d_sae == saes.D_SAE
    with pytest.raises(sle.FormatError, match="holds a scaling_factor other than 1"):
        _read(tmp_path, scaling_factor=torch.full((saes.D_SAE,), 2.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"threshold": ...},
            "params.npz must hold exactly W_dec, W_enc, b_dec, b_enc, t",
        ),
        ({"W_enc": torch.zeros(3)}, r"W_enc must be \[d_model, d_sae\]; it is \[3\]"),
        ({"W_enc": ...}, "params.npz must hold exactly"),
        ({"b_enc": torch.zeros(3)}, r"b_enc must be \[20\], by W_enc; it is \[3\]"),
        ({"b_enc": torch.zeros(20).long()}, "tensors of one floating-point dtype"),
        ({"b_enc": torch.zeros(20).double()}, "tensors of one floating-point dtype"),
    ],
)
def test_rejects_other_arrays(tmp_path, changes, message):
    with pytest.raises(sle.FormatError, match=message):
        _read(tmp_path, **changes)


def test_rejects_numbers_that_are_not_finite(tmp_path):
    with pytest.raises(
        sle.NonFinite, match="20 of 20 numbers in b_enc of .*params.npz"
    ):
        _read(tmp_path, b_enc=torch.full((saes.D_SAE,), float("nan")))
