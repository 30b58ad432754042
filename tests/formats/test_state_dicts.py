"""Single files of torch are told apart by their names."""

import published_saes as saes
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.formats import read_sae


def test_goodfire_is_recognised_by_its_layers(tmp_path):
    tensors = saes.linear_layers("encoder_linear", "decoder_linear")
    file = tmp_path / "Llama-3.3-70B-Instruct-SAE-l50.pt"
    checkpoint = read_sae(saes.write(file, tensors))
    assert (checkpoint.kind, checkpoint.apply_b_dec_to_input) == ("relu", False)
    assert checkpoint.metadata == {
        "trained_with": "Goodfire",
        "model_name": "meta-llama/Llama-3.3-70B-Instruct",
        "hook_name": "blocks.50.hook_resid_post",
    }
    renamed = read_sae(file.rename(tmp_path / "x.pth"))
    assert "hook_name" not in renamed.metadata


def test_deepseek_is_recognised_by_the_name_of_its_file(tmp_path):
    file = tmp_path / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    checkpoint = read_sae(saes.write(file, saes.linear_layers()))
    assert checkpoint.kind == "relu"
    assert checkpoint.metadata["hook_name"] == "blocks.19.hook_resid_post"
    model = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
    assert checkpoint.metadata["model_name"] == model


def test_attention_saes_have_a_config_beside(tmp_path):
    file = saes.write(tmp_path / "L0.pt", saes.matrices(threshold=...))
    config = {"act_name": "blocks.0.attn.hook_z", "act_size": 6, "dict_size": 20}
    saes.write(tmp_path / "L0_cfg.json", config)
    checkpoint = read_sae(file)
    assert (checkpoint.kind, checkpoint.apply_b_dec_to_input) == ("relu", True)
    assert checkpoint.metadata["hook_name"] == "blocks.0.attn.hook_z"
    assert checkpoint.metadata["reshape_activations"] == "hook_z"

    saes.write(tmp_path / "L0_cfg.json", {**config, "dict_size": 21})
    with pytest.raises(
        sle.FormatError, match=r"W_enc must be \[6, 21\], by L0_cfg.json"
    ):
        read_sae(file)


@pytest.mark.parametrize(
    "content",
    [
        saes.linear_layers(),
        saes.matrices(),
        {"weight": torch.zeros(3)},
        {"sae": saes.matrices()},
        {},
    ],
    ids=["linear layers", "matrices", "other", "nested", "empty"],
)
def test_rejects_tensors_whose_activation_nothing_says(tmp_path, content):
    with pytest.raises(
        sle.FormatError, match=r"sae.pt holds .*another activation would be a guess"
    ):
        read_sae(saes.write(tmp_path / "sae.pt", content))


def test_rejects_layers_without_a_bias(tmp_path):
    tensors = saes.linear_layers("encoder_linear", "decoder_linear")
    del tensors["decoder_linear.bias"]
    with pytest.raises(sle.FormatError, match="must hold exactly decoder_linear.bias"):
        read_sae(saes.write(tmp_path / "sae.pt", tensors))
