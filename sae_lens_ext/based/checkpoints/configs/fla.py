"""The configs of language models in the manner of flash-linear-attention.

They name ``feature_dim``; the layers that ``attn`` lists are softmax attention. Scores
are divided by the root of ``feature_dim``, as in fla's chunked forms; in its parallel
form for Based that was not so in every release.

Source: fla-org/flash-linear-attention, ``fla/models/linear_attn`` and ``fla/layers``.
"""

from typing import Any

from sae_lens_ext.based.checkpoints.configs.shared import check_heads, vocab_size
from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import FLA, Shapes
from sae_lens_ext.based.config import LayerType

# What the layer of ReBased, and the kernel for Based, add to a denominator.
_EPS = {"rebased": 1e-5, "based": 1e-6}


def from_fla(fields: Fields, shapes: Shapes, kernel: str) -> dict[str, Any]:
    """Fields of ``BasedConfig`` from a config of fla."""
    n_layers = fields.integer("num_hidden_layers")
    d_model = fields.integer("hidden_size")
    n_heads = fields.integer("num_heads")
    fields.expect("num_kv_heads", n_heads, n_heads)
    fields.expect("hidden_act", "swish", "swish", "silu")

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
        "attention_eps": _EPS.get(kernel, _EPS["rebased"]),
        "tie_word_embeddings": fields.expect("tie_word_embeddings", False, True, False),
    }
    if "attn" in fields:
        config |= _softmax_attention(fields.section("attn"), n_layers, n_heads)
    return config


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
    return config
