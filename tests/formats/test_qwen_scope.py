"""Qwen-Scope: k and the model come from the repository's name."""

import published_saes as saes
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats import read_sae

REPO = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"


def _write(place, **changes):
    tensors = saes.matrices(threshold=..., **changes)
    stored = {
        name: tensor.T.contiguous() if tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }
    return saes.write(place, stored)


@pytest.mark.parametrize("place", [REPO, f"models--Qwen--{REPO}/snapshots/0a1b"])
def test_the_name_of_the_repository_says_k(tmp_path, place):
    file = _write(tmp_path / place / "layer12.sae.pt")
    checkpoint = read_sae(file)
    assert (checkpoint.kind, checkpoint.k) == ("topk", 5)
    assert checkpoint.metadata == {
        "trained_with": "Qwen-Scope",
        "model_name": "Qwen/Qwen3-1.7B-Base",
        "hook_name": "blocks.12.hook_resid_post",
        "hf_hook_name": "model.layers.12",
    }
    assert torch.equal(checkpoint.tensors["W_enc"], saes.matrices()["W_enc"])


def test_a_folder_with_one_file_needs_no_choice(tmp_path):
    _write(tmp_path / REPO / "layer3.sae.pt")
    assert read_sae(tmp_path / REPO).metadata["hook_name"] == "blocks.3.hook_resid_post"


def test_a_folder_with_many_files_says_how_to_choose(tmp_path):
    for layer in range(3):
        _write(tmp_path / REPO / f"layer{layer}.sae.pt")
    with pytest.raises(
        sle.FormatError,
        match=r"holds 3 SAE files; choose one with subfolder=, such as 'layer0.sae.pt'",
    ):
        read_sae(tmp_path / REPO)


def test_rejects_a_file_without_the_name_of_its_repository(tmp_path):
    with pytest.raises(sle.FormatError, match="its k is in the name of the repository"):
        read_sae(_write(tmp_path / "layer12.sae.pt"))


def test_rejects_other_tensors(tmp_path):
    file = tmp_path / REPO / "layer12.sae.pt"
    with pytest.raises(sle.FormatError, match="must hold exactly W_dec, W_enc"):
        read_sae(_write(file, b_enc=...))
    with pytest.raises(sle.FormatError, match=r"b_enc must be \[20\], by W_enc; it is"):
        read_sae(_write(file, b_enc=torch.zeros(3)))
    (tmp_path / "SAE-Res-X-W1K-L0_50").mkdir()
    too_many = _write(tmp_path / "SAE-Res-X-W1K-L0_50" / "layer1.sae.pt")
    with pytest.raises(sle.FormatError, match="k=50 is more than d_sae=20 features"):
        read_sae(too_many)
