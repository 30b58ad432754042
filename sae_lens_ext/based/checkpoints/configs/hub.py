"""The configs of ``hazyresearch/based-*`` and ``elephantmipt/*based-*`` on the hub.

They are a GPT2Config with mixers: ``mixer`` is the convolution, ``alt_mixer`` linear
attention, ``alt_mixer_2`` attention in a sliding window. A layer whose role has no
mixer is softmax attention over all tokens.

Source: HazyResearch/based, ``based/models/gpt.py`` and the models beside it.
"""

from typing import Any

from sae_lens_ext.based.checkpoints.configs.shared import (
    check_attention_options,
    check_feature_map,
    check_heads,
    conv_kernel_size,
    vocab_size,
)
from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import HUB, Shapes
from sae_lens_ext.based.config import LayerType
from sae_lens_ext.based.config_keys import TRANSFORMERS_KEYS

# Fields that change no numbers of a loaded model, and why.
_HARMLESS = {
    **dict.fromkeys(TRANSFORMERS_KEYS, "of transformers"),
    **dict.fromkeys(
        ("mixer", "alt_mixer", "alt_mixer_2"), "read where layers have that role"
    ),
    **dict.fromkeys(
        ("attn_pdrop", "resid_pdrop", "mlp_checkpoint_lvl"), "only in training"
    ),
    **dict.fromkeys(
        ("initializer_range", "special_initializer", "use_weight_init"),
        "of weights before training",
    ),
    **dict.fromkeys(
        ("mlp_fc1_bias", "mlp_fc2_bias", "qkv_proj_bias", "out_proj_bias"),
        "their tensors are compared",
    ),
    "lm_head_bias": "its tensor is compared",
    **dict.fromkeys(
        (
            "fused_bias_fc",
            "fused_mlp",
            "fused_dropout_add_ln",
            "fused_dense_sqrelu_dense",
            "use_flash_attn",
            "sequence_parallel",
        ),
        "which implementation runs",
    ),
    "residual_in_fp32": "the stream has the dtype of the weights here",
    "reorder_and_upcast_attn": "not read by the published code",
    **dict.fromkeys(
        ("fixed_decay", "decay_const", "decay_denom"), "no mixer reads the decay"
    ),
    "parallel_block_tied_norm": "of parallel blocks",
    "ff_mult": "of the alternative MLP",
    **dict.fromkeys(
        (
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        ),
        "of classifiers",
    ),
}
_HARMLESS_IN_MIXER = {
    "l_max": "longest text of the training",
    "layer_idx": "the number of the layer",
    "use_bias": "its tensors are compared",
    "conv_bias": "its tensor is compared",
    "use_cuda": "which implementation runs",
    **dict.fromkeys(("kernel_size", "kernel_sizes"), "read off the weights"),
    "head_dim": "its tensors are compared",
    "dropout": "only in training",
    **dict.fromkeys(
        ("qkv_proj_bias", "out_proj_bias", "softmax_scale", "num_heads_kv"),
        "replaced by the model's own",
    ),
    **dict.fromkeys(("use_flash_attn", "fused_bias_fc"), "which implementation runs"),
}
_HARMLESS_IN_FEATURE_MAP = {
    **dict.fromkeys(("temp", "eps"), "Taylor's map does not read it"),
    "head_dim_idx": "the axis of the features",
}


def from_hub(fields: Fields, shapes: Shapes, kernel: str) -> dict[str, Any]:
    """Fields of ``BasedConfig`` from a config on the hub."""
    n_heads = fields.integer("n_head")
    layer_types = _layer_types(fields)
    # Under either name; zero where positions are not learned.
    n_positions = fields.integer("n_positions", 0, at_least=0)
    n_positions = fields.integer("max_position_embeddings", n_positions, at_least=0)
    config: dict[str, Any] = {
        "num_hidden_layers": len(layer_types),
        "hidden_size": fields.integer("n_embd"),
        "num_attention_heads": n_heads,
        "layer_types": layer_types,
        "intermediate_size": fields.integer("n_inner"),
        "vocab_size": vocab_size(fields, HUB, shapes),
        "max_position_embeddings": n_positions or None,
        "norm": "rms" if fields.expect("rms_norm", False, True, False) else "layer",
        "norm_eps": fields.number("layer_norm_epsilon", 1e-5),
        "tie_word_embeddings": fields.expect("tie_word_embeddings", True, True, False),
        "embedding_dropout": fields.number("embd_pdrop", 0.1),
        "use_rope": fields.expect("rotary_emb_fraction", 0, 1, 0) == 1,
        "rope_theta": fields.number("rotary_emb_base", 10000.0),
    }
    _check_fixed(fields, n_heads)

    if "conv" in layer_types:
        convolution = fields.section("mixer")
        config["conv_expansion"] = convolution.integer("expand_proj", 2)
        config["conv_kernel_size"] = conv_kernel_size(shapes)
        convolution.refuse_others(_HARMLESS_IN_MIXER)
    if "linear_attention" in layer_types:
        config |= _linear_attention(fields.section("alt_mixer"), n_heads, kernel)
    if "sliding_attention" in layer_types:
        window = fields.section("alt_mixer_2")
        # flash-attn is given half of it: that many tokens before a token, none after.
        config["sliding_window"] = window.integer("window_size") // 2
        check_heads(window, n_heads)
        window.expect("causal", True, True, effect="otherwise tokens see later ones")
        window.refuse_others(_HARMLESS_IN_MIXER)
    fields.refuse_others(_HARMLESS)
    return config


def _layer_types(fields: Fields) -> list[LayerType]:
    n_layers = fields.integer("n_layer")
    linear = fields.layers("alt_mixer_layers", n_layers)
    windows = fields.layers("alt_mixer_2_layers", n_layers)
    if linear & windows:
        fields.report(
            f"layers {sorted(linear & windows)} are in alt_mixer_layers and in "
            "alt_mixer_2_layers"
        )

    layer_types: list[LayerType] = []
    for layer in range(n_layers):
        role = "mixer"
        layer_type: LayerType = "conv"
        if layer in windows:
            role = "alt_mixer_2"
            layer_type = "sliding_attention"
        elif layer in linear:
            role = "alt_mixer"
            layer_type = "linear_attention"
        # As in hazyresearch/attn-360m, where no role has a mixer.
        layer_types.append(layer_type if role in fields else "full_attention")
    return layer_types


def _linear_attention(attention: Fields, n_heads: int, kernel: str) -> dict[str, Any]:
    feature_dim = attention.integer("feature_dim")
    attention_eps = attention.number("eps", 1e-12)
    feature_map = attention.section("feature_map")
    feature_map.expect("input_dim", feature_dim, feature_dim)
    check_feature_map(feature_map, "_target_", kernel)
    feature_map.refuse_others(_HARMLESS_IN_FEATURE_MAP)
    check_heads(attention, n_heads)
    attention.expect("num_key_value_heads", n_heads, n_heads)
    check_attention_options(attention, kernel)
    attention.expect(
        "parallel_implementation",
        "quadratic",
        "quadratic",
        "linear",
        "fla_parallel",
        "fla_chunk",
        effect="another one may normalise more",
    )
    attention.refuse_others(_HARMLESS_IN_MIXER)
    return {"feature_dim": feature_dim, "attention_eps": attention_eps}


def _check_fixed(fields: Fields, n_heads: int) -> None:
    """Report options that no model of this package has."""
    fields.expect("activation_function", "gelu_new", "swiglu")
    expected = {
        "prenorm": (True, "otherwise norms stand behind the mixers"),
        "parallel_block": (False, "otherwise mixer and MLP read the same stream"),
        "rotary_emb_interleaved": (False, "otherwise neighbours are rotated together"),
        "rotary_emb_scale_base": (
            None,
            "otherwise rotated queries and keys are scaled",
        ),
        "use_alibi": (False, "otherwise scores depend on the distance"),
        "scale_attn_weights": (True, "otherwise scores are not divided"),
        "scale_attn_by_inverse_layer_idx": (False, "otherwise scores shrink by layer"),
        "n_head_kv": (n_heads, "otherwise heads share keys and values"),
        "attn_dwconv": (False, "otherwise queries, keys and values are convolved"),
        "mlp_type": ("base", "the other MLP differs"),
        "word_embed_proj_dim": (None, "otherwise embeddings are projected"),
        "mup_width_scale": (1.0, "it scales the MLP"),
        "mup_embeddings_multiplier": (1.0, "it scales the embedding"),
        "mup_output_multiplier": (1.0, "it scales the logits"),
    }
    for key, (value, effect) in expected.items():
        fields.expect(key, value, value, effect=effect)
    head_dim = fields.integer("n_embd") // n_heads
    fields.expect("head_dim", head_dim, head_dim, effect="it scales the scores")
