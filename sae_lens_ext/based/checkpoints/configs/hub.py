"""The configs of ``hazyresearch/based-*`` and ``elephantmipt/*based-*`` on the hub.

They are a GPT2Config with mixers: ``mixer`` is the convolution, ``alt_mixer`` linear
attention, ``alt_mixer_2`` attention in a sliding window. A layer whose role has no
mixer is softmax attention over all tokens.

Source: HazyResearch/based, ``based/models/gpt.py`` and the models beside it.
"""

from typing import Any

from sae_lens_ext.based.checkpoints.configs.shared import (
    check_heads,
    conv_kernel_size,
    vocab_size,
)
from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import HUB, Shapes
from sae_lens_ext.based.config import LayerType


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
        config["conv_expansion"] = fields.section("mixer").integer("expand_proj", 2)
        config["conv_kernel_size"] = conv_kernel_size(shapes)
    if "linear_attention" in layer_types:
        config |= _linear_attention(fields.section("alt_mixer"), n_heads)
    if "sliding_attention" in layer_types:
        window = fields.section("alt_mixer_2")
        # flash-attn is given half of it: that many tokens before a token, none after.
        config["sliding_window"] = window.integer("window_size") // 2
        check_heads(window, n_heads)
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


def _linear_attention(attention: Fields, n_heads: int) -> dict[str, Any]:
    feature_dim = attention.integer("feature_dim")
    attention_eps = attention.number("eps", 1e-12)
    feature_map = attention.section("feature_map")
    feature_map.expect("input_dim", feature_dim, feature_dim)
    check_heads(attention, n_heads)
    return {"feature_dim": feature_dim, "attention_eps": attention_eps}


def _check_fixed(fields: Fields, n_heads: int) -> None:
    """Report options that no model of this package has."""
    fields.expect("activation_function", "gelu_new", "swiglu")
    expected = {
        "prenorm": True,
        "parallel_block": False,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "n_head_kv": n_heads,
    }
    for key, value in expected.items():
        fields.expect(key, value, value)
