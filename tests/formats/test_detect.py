"""The format of a folder is recognised by the files in it."""

import json

import pytest
import torch
from safetensors.torch import save_file

import sae_lens_ext as sle
from sae_lens_ext.formats import read_sae


@pytest.fixture
def folder(tmp_path):
    """A small folder of sparsify in a folder of its own."""
    folder = tmp_path / "layers.3"
    folder.mkdir()
    weights = {
        "encoder.weight": torch.randn(20, 6),
        "encoder.bias": torch.randn(20),
        "W_dec": torch.randn(20, 6),
        "b_dec": torch.randn(6),
    }
    save_file(weights, folder / "sae.safetensors")
    config = {"d_in": 6, "num_latents": 20, "k": 4}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def test_a_repository_of_several_saes_asks_which(folder):
    with pytest.raises(
        sle.FormatError,
        match="holds 1 SAE folders; choose one with subfolder=, such as 'layers.3'",
    ):
        sle.SAE.from_pretrained(folder.parent)
    assert sle.SAE.from_pretrained(folder.parent, subfolder="layers.3").config.k == 4


def test_what_a_killed_save_left_is_not_a_choice_of_its_own(folder):
    saved = folder / ".saved"
    saved.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file():
            path.rename(saved / path.name)
    (folder / ".saving-x").mkdir()
    (folder / ".saving-x" / "cfg.json").write_text("{")
    with pytest.raises(
        sle.FormatError, match="holds 1 SAE folders.*such as 'layers.3'"
    ):
        read_sae(folder.parent)


def test_the_description_decides_where_weights_of_two_formats_lie(folder):
    sae = sle.SAE.from_pretrained(folder)
    assert sae.config.metadata["trained_with"] == "sparsify"
    sae.with_config(metadata={}).save_pretrained(folder)
    assert (folder / "sae.safetensors").exists()
    assert "trained_with" not in read_sae(folder).metadata


def test_an_empty_folder_says_which_file_is_missing(tmp_path):
    with pytest.raises(
        sle.FormatError,
        match="looked for cfg.json and .*it holds no files",
    ):
        read_sae(tmp_path)
