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
        ({"causal": False}, "causal is False, .*otherwise tokens attend to later"),
        ({"feature_map": "relu"}, "feature_map is 'relu', and the weights would be"),
        ({"norm_q": True}, "norm_q is True, and only False is supported here"),
        ({"use_gate": True}, "use_gate is True, an option that is not known here"),
        ({"attn": {"qk_norm": True}}, "attn.qk_norm is True, .* are normalised"),
        (
            {"attn": {"rope_scaling": {"factor": 4.0}}},
            "attn.rope_scaling is {'factor': 4.0}, an option that is not known here",
        ),
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


def test_options_of_rebased_must_be_those_of_the_kernel(tmp_path):
    config = with_changes(FLA_CONFIG, normalize=False)
    weights = weights_of("fla", FLA_CONFIG, True)
    write_folder(tmp_path, weights, config)
    message = "normalize is False, and it is True for kernel='rebased'; name with"
    with pytest.raises(sle.FormatError, match=message):
        load_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path, kernel="affine_square")


def test_eps_and_options_without_effect_on_numbers(tmp_path):
    config = with_changes(
        FLA_CONFIG,
        eps=1e-4,
        causal=True,
        feature_map="rebased",
        use_gamma=True,
        attn_mode="chunk",
        fuse_norm=True,
        max_position_embeddings=2048,
        bos_token_id=1,
        temperature=0.7,
        use_gate=False,
    )
    write_folder(tmp_path, weights_of("fla", FLA_CONFIG, True), config)
    assert load_checkpoint(tmp_path).config.attention_eps == 1e-4
