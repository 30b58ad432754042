"""The configs of language models in the manner of flash-linear-attention.

They name ``feature_dim``; the layers that ``attn`` lists are softmax attention. Scores
are divided by the root of ``feature_dim``, as in fla's chunked forms; in its parallel
form for Based that was not so in every release.

Source: fla-org/flash-linear-attention, ``fla/models/linear_attn`` and ``fla/layers``.
"""

from typing import Any

from sae_lens_ext.based.checkpoints.configs.shared import (
    check_attention_options,
    check_feature_map,
    check_heads,
    vocab_size,
)
from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import FLA, Shapes
from sae_lens_ext.based.config import LayerType
from sae_lens_ext.based.config_keys import TRANSFORMERS_KEYS

# What the layer of ReBased, and the kernel for Based, add to a denominator.
_EPS = {"rebased": 1e-5, "based": 1e-6}

# Fields that change no numbers of a loaded model, and why.
_HARMLESS = {
    **dict.fromkeys(TRANSFORMERS_KEYS, "of transformers"),
    **dict.fromkeys(("mode", "attn_mode"), "which implementation runs"),
    **dict.fromkeys(
        (
            "fuse_norm",
            "fuse_swiglu",
            "fuse_cross_entropy",
            "fuse_linear_cross_entropy",
        ),
        "which implementation runs",
    ),
    **dict.fromkeys(("use_l2warp", "initializer_range"), "only in training"),
    **dict.fromkeys(
        ("expand_k", "expand_v", "elementwise_affine"), "their tensors are compared"
    ),
    **dict.fromkeys(
        ("l_max", "max_position_embeddings"), "longest text of the training"
    ),
}
_HARMLESS_IN_ATTENTION = {
    "qkv_bias": "its tensors are compared",
    "max_position_embeddings": "longest text of the training",
}


def from_fla(fields: Fields, shapes: Shapes, kernel: str) -> dict[str, Any]:
    """Fields of ``BasedConfig`` from a config of fla."""
    n_layers = fields.integer("num_hidden_layers")
    d_model = fields.integer("hidden_size")
    n_heads = fields.integer("num_heads")
    fields.expect("num_kv_heads", n_heads, n_heads)
    fields.expect("num_key_value_heads", n_heads, n_heads)
    fields.expect("hidden_act", "swish", "swish", "silu")
    _check_fixed(fields, kernel)

    # The width that fla's MLP has where the config does not name one.
    width = int(d_model * fields.number("hidden_ratio", 4.0) * 2 / 3)
    width = -(-width // 256) * 256
    config: dict[str, Any] = {
        "num_hidden_layers": n_layers,
        "hidden_size": d_model,
        "num_attention_heads": n_heads,
        "feature_dim": fields.integer("feature_dim"),
        "layer_types": ["linear_attention"] * n_layers,
        "intermediate_size": fields.integer("intermediate_size", width),
        "vocab_size": vocab_size(fields, FLA, shapes),
        "norm_eps": fields.number("norm_eps", 1e-6),
        "attention_eps": fields.number("eps", _EPS.get(kernel, _EPS["rebased"])),
        "tie_word_embeddings": fields.expect("tie_word_embeddings", False, True, False),
    }
    if "attn" in fields:
        config |= _softmax_attention(fields.section("attn"), n_layers, n_heads)
    fields.refuse_others(_HARMLESS)
    return config


def _check_fixed(fields: Fields, kernel: str) -> None:
    """Report options that no model of this package has."""
    check_attention_options(fields, kernel)
    for key in ("feature_map", "feature_name"):
        check_feature_map(fields, key, kernel)
    expected = {
        "norm_q": "otherwise features of queries are divided by their sum",
        "norm_k": "otherwise features of keys are divided by their sum",
        "norm_feature_map": "otherwise features are normalised",
        "tie_feature_map_qk": "otherwise queries and keys share a learned map",
    }
    for key, effect in expected.items():
        fields.expect(key, False, False, effect=effect)


def _softmax_attention(
    attention: Fields, n_layers: int, n_heads: int
) -> dict[str, Any]:
    has_window = "window_size" in attention
    softmax_type: LayerType = "sliding_attention" if has_window else "full_attention"
    softmax_layers = attention.layers("layers", n_layers)
    config: dict[str, Any] = {
        "layer_types": [
            softmax_type if layer in softmax_layers else "linear_attention"
            for layer in range(n_layers)
        ],
        "rope_theta": attention.number("rope_theta", 10000.0),
    }
    if has_window:
        # It counts the token itself.
        config["sliding_window"] = attention.integer("window_size") - 1
    check_heads(attention, n_heads)
    attention.expect("num_kv_heads", n_heads, n_heads)
    attention.expect(
        "qk_norm", False, False, effect="otherwise queries and keys are normalised"
    )
    attention.refuse_others(_HARMLESS_IN_ATTENTION)
    return config
