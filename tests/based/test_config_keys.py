"""Keys of transformers are told from those of a model."""

from transformers import PreTrainedConfig

from sae_lens_ext.based.config_keys import unknown_keys


def test_keys_that_every_config_has_are_known():
    config = PreTrainedConfig(bos_token_id=1, attn_implementation="eager")
    written = {**config.to_dict(), "torch_dtype": "float32", "temperature": 1.0}
    assert unknown_keys(written, known=()) == []


def test_methods_and_other_names_are_not_known():
    keys = ["save_pretrained", "hidden_size", "_private", "width"]
    assert unknown_keys(keys, known=["width"]) == ["save_pretrained", "hidden_size"]
