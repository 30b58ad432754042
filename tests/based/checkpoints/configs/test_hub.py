"""Configs on the hub become ours, or an error that names what does not fit."""

import pytest
from published import HUB_CONFIG, weights_of, with_changes, write_folder

import sae_lens_ext as sle
from sae_lens_ext.based import load_checkpoint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": None}, "it lacks n_layer"),
        ({"alt_mixer": {"feature_dim": None}}, "it lacks alt_mixer.feature_dim"),
        ({"n_head": "three"}, "n_head must be a positive integer; got 'three'"),
        (
            {"layer_norm_epsilon": -1},
            "layer_norm_epsilon must be a non-negative number; got -1",
        ),
        (
            {"activation_function": "geglu"},
            "activation_function is 'geglu', and only 'swiglu' is supported here",
        ),
        (
            {"activation_function": None},
            "activation_function is 'gelu_new', and only 'swiglu' is supported here",
        ),
        (
            {"rotary_emb_fraction": 0.5},
            "rotary_emb_fraction is 0.5, and only 1 or 0 is supported here",
        ),
        (
            {"alt_mixer_layers": [1, 2]},
            r"layers \[2\] are in alt_mixer_layers and in alt_mixer_2_layers",
        ),
        (
            {"alt_mixer_layers": [1, 5]},
            r"alt_mixer_layers must list layers from 0 to 4; got \[1, 5\]",
        ),
        (
            {"alt_mixer": {"num_heads": 6}},
            "alt_mixer.num_heads is 6 in a model with 3 heads, and must be the same",
        ),
        (
            {"alt_mixer": {"feature_map": {"input_dim": 16}}},
            "alt_mixer.feature_map.input_dim is 16, and only 4 is supported here",
        ),
        (
            {"alt_mixer": "based.LinearAttention"},
            "alt_mixer must be an object; got 'based.LinearAttention'",
        ),
        (
            {"alt_mixer": {"feature_map": {"_target_": "a.path.HedgehogFeatureMap"}}},
            "feature_map._target_ is 'a.path.HedgehogFeatureMap', and the weights",
        ),
        ({"alt_mixer": {"causal": False}}, "alt_mixer.causal is False, and only True"),
        ({"alt_mixer": {"qk_norm": True}}, "alt_mixer.qk_norm is True, and only False"),
        (
            {"alt_mixer": {"parallel_implementation": "tk"}},
            "parallel_implementation is 'tk', and only 'quadratic' or .* normalise",
        ),
        ({"alt_mixer": {"use_gate": 1}}, "alt_mixer.use_gate is 1, an option that is"),
        ({"alt_mixer_2": {"causal": None}}, "alt_mixer_2.causal is None, and only"),
        ({"mixer": {"use_act": True}}, "mixer.use_act is True, an option that is not"),
        ({"prenorm": False}, "prenorm is False, and only True .* behind the mixers"),
        ({"mlp_type": "alt"}, "mlp_type is 'alt', and only 'base' is supported"),
        ({"use_alibi": True}, "use_alibi is True, .* depend on the distance"),
        ({"head_dim": 16}, "head_dim is 16, and only 8 .*it scales the scores"),
        ({"mup_output_multiplier": 2.0}, "mup_output_multiplier is 2.0, .* logits"),
        ({"sandwich_norm": True}, "sandwich_norm is True, an option that is not known"),
        ({"n_embd": 2}, "hidden_size=2 .*num_attention_heads=3"),
    ],
)
def test_rejects_a_config_that_does_not_fit(changes, message, tmp_path):
    config = with_changes(HUB_CONFIG, **changes)
    write_folder(tmp_path, weights_of("hub", HUB_CONFIG), config)
    with pytest.raises(
        sle.FormatError,
        match="config.json does not describe a model that can be loaded here: "
        f".*{message}",
    ):
        load_checkpoint(tmp_path)


def test_a_window_of_128_is_64_tokens_back(tmp_path):
    config = with_changes(HUB_CONFIG, alt_mixer_2={"window_size": 128})
    write_folder(tmp_path, weights_of("hub", config), config)
    assert load_checkpoint(tmp_path).config.sliding_window == 64


def test_more_rows_than_tokens_are_padding_and_fewer_are_rejected(tmp_path, refusal):
    weights = weights_of("hub", HUB_CONFIG)
    unpadded = with_changes(HUB_CONFIG, pad_vocab_size_multiple=1)
    model = load_checkpoint(write_folder(tmp_path, weights, unpadded))
    assert model.config.vocab_size == 48

    larger = with_changes(HUB_CONFIG, vocab_size=50)
    assert (
        "of another shape: transformer.embeddings.word_embeddings.weight [48, 24] "
        "instead of [56, 24]"
    ) in refusal(write_folder(tmp_path, weights, larger))


def test_options_without_effect_on_numbers_are_accepted(tmp_path):
    """As the configs on the hub and those that they were trained with have them."""
    config = with_changes(
        HUB_CONFIG,
        attn_pdrop=0.1,
        embd_pdrop=0,
        resid_pdrop=0.1,
        fixed_decay=True,
        decay_const=-3,
        special_initializer=True,
        reorder_and_upcast_attn=False,
        scale_attn_weights=True,
        summary_type="cls_index",
        fused_dropout_add_ln=True,
        use_flash_attn=True,
        mlp_fc1_bias=False,
        transformers_version="4.30.0",
        torch_dtype="float32",
        max_length=20,
        alt_mixer={"l_max": 2048, "parallel_implementation": "fla_parallel"},
        alt_mixer_2={"causal": True},
        sandwich_norm=None,
    )
    write_folder(tmp_path, weights_of("hub", HUB_CONFIG), config)
    assert load_checkpoint(tmp_path).config.kernel == "based"
