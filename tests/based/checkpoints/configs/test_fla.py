"""Configs of fla become ours, or an error that names what does not fit."""

import pytest
from published import FLA_CONFIG, weights_of, with_changes, write_folder

import sae_lens_ext as sle
from sae_lens_ext.based import load_checkpoint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_act": "gelu"},
            "hidden_act is 'gelu', and only 'swish' or 'silu' is supported here",
        ),
        (
            {"attn": {"num_heads": 6}},
            "attn.num_heads is 6 in a model with 3 heads, and must be the same",
        ),
        ({"feature_dim": None}, "it lacks feature_dim"),
    ],
)
def test_rejects_a_config_that_does_not_fit(changes, message, tmp_path):
    config = with_changes(FLA_CONFIG, **changes)
    write_folder(tmp_path, weights_of("fla", FLA_CONFIG, False), config)
    with pytest.raises(
        sle.FormatError,
        match="config.json does not describe a model that can be loaded here: "
        f".*{message}",
    ):
        load_checkpoint(tmp_path)
