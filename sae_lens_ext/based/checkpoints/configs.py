"""What publications write into ``config.json``, as the fields of ours.

Each reader is given what the weights say: their shapes, and which kernel they are of. Mixers are told by their role. Each role has a class
path (``_target_``, ``name``), which is never imported nor believed.
"""

from typing import Any

from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import (
    FLA,
    HUB,
    ZOOLOGY,
    Layout,
    Shapes,
    mixers,
)
from sae_lens_ext.based.config import LayerType

# fla's denominators: of its ReBased layer, and of its kernel for Based.
_FLA_EPS = {"rebased": 1e-5, "based": 1e-6}


def from_hub(fields: Fields, shapes: Shapes, kernel: str) -> dict[str, Any]:
    """A GPT2Config with mixers: ``mixer`` is the convolution, ``alt_mixer`` linear attention, ``alt_mixer_2`` the sliding window.

    A layer whose role has no mixer is softmax attention over all tokens.

    Source: HazyResearch/based, ``based/models/gpt.py`` and the models beside it.
    """
    n_layers, d_model, heads = (
        fields.size("n_layer"),
        fields.size("n_embd"),
        fields.size("n_head"),
    )
    linear, windows = (
        fields.places("alt_mixer_layers", n_layers),
        fields.places("alt_mixer_2_layers", n_layers),
    )
    if linear & windows:
        fields.complain(
            f"layers {sorted(linear & windows)} are in alt_mixer_layers and in alt_mixer_2_layers"
        )
    roles: dict[int, tuple[str, LayerType]] = {
        **dict.fromkeys(range(n_layers), ("mixer", "conv")),
        **dict.fromkeys(linear, ("alt_mixer", "linear_attention")),
        **dict.fromkeys(windows, ("alt_mixer_2", "sliding_attention")),
    }
    layer_types = [
        kind if role in fields else "full_attention"
        for role, kind in (roles[layer] for layer in range(n_layers))
    ]
    found: dict[str, Any] = {
        "num_hidden_layers": n_layers,
        "hidden_size": d_model,
        "num_attention_heads": heads,
        "layer_types": layer_types,
        "intermediate_size": fields.size("n_inner"),
        "vocab_size": _rows(fields, HUB, shapes),
        "max_position_embeddings": fields.size(
            "max_position_embeddings", fields.size("n_positions", 0, least=0), least=0
        )
        or None,
        "norm": "rms" if fields.expect("rms_norm", False, True, False) else "layer",
        "norm_eps": fields.number("layer_norm_epsilon", 1e-5),
        "tie_word_embeddings": fields.expect("tie_word_embeddings", True, True, False),
        "embedding_dropout": fields.number("embd_pdrop", 0.1),
        "use_rope": fields.expect("rotary_emb_fraction", 0, 1, 0) == 1,
        "rope_theta": fields.number("rotary_emb_base", 10000.0),
    }
    fields.expect("activation_function", "gelu_new", "swiglu")
    for key, only in (
        ("prenorm", True),
        ("parallel_block", False),
        ("rotary_emb_interleaved", False),
        ("rotary_emb_scale_base", None),
    ):
        fields.expect(key, only, only)
    for key, only in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("n_head_kv", heads),
    ):
        fields.expect(key, only, only)
    if "conv" in layer_types:
        found["conv_expansion"] = fields.within("mixer").size("expand_proj", 2)
        found["conv_kernel_size"] = _taps(shapes)
    if "linear_attention" in layer_types:
        attention = fields.within("alt_mixer")
        found["feature_dim"] = attention.size("feature_dim")
        found["attention_eps"] = attention.number("eps", 1e-12)
        attention.within("feature_map").expect(
            "input_dim", found["feature_dim"], found["feature_dim"]
        )
        _same_heads(attention, heads)
    if "sliding_attention" in layer_types:
        window = fields.within("alt_mixer_2")
        # flash-attn is given half of it: so many tokens before a token, none after.
        found["sliding_window"] = window.size("window_size") // 2
        _same_heads(window, heads)
    return found


def from_zoology(fields: Fields, shapes: Shapes, kernel: str) -> dict[str, Any]:
    """A ModelConfig of zoology or corl-team/rebased, or a training config that holds one under ``model``.

    Which layers are convolutions and which are linear attention is read off the weights.

    Source: HazyResearch/zoology and corl-team/rebased, ``model.py`` and ``mixers``.
    """
    fields = fields.within("model") if "model" in fields else fields
    n_layers = fields.size("n_layers")
    options = _options(fields.within("sequence_mixer").within("kwargs"))
    _, by_layer = mixers(ZOOLOGY, shapes)
    layer_types: list[LayerType] = []
    of_attention: set[tuple[int, int, float]] = set()
    for layer in range(n_layers):
        here = options[layer % len(options)]
        there = by_layer.get(layer, {})
        layer_types.append(
            "conv" if "projection.weight" in there else "linear_attention"
        )
        if "projection.weight" in there:
            here.expect("use_act", False, False)
        elif "proj_q.weight" not in there:
            fields.complain(
                f"layer {layer} holds {', '.join(sorted(there)[:4]) or 'no mixer'}, and only a convolution with projection.weight and "
                "linear attention with proj_q.weight are known here"
            )
        else:
            heads = here.size("num_heads")
            here.expect("num_key_value_heads", heads, heads)
            of_attention.add(
                (heads, here.size("feature_dim"), here.number("eps", 1e-12))
            )
            ablations = [
                key for key in ("use_gamma", "use_beta", "normalize") if key in here
            ]
            if kernel == "based" and ablations:
                fields.complain(
                    f"{here.inside}{ablations[0]} is an option of ReBased, and the weights have no norm of queries and keys: "
                    "say with kernel= which of its ablations it is"
                )
    if len(of_attention) > 1:
        fields.complain(
            f"layers differ in num_heads, feature_dim or eps: {sorted(of_attention)}"
        )
    heads, feature_dim, attention_eps = min(of_attention, default=(1, 1, 1e-12))
    if any(".state_mixer." in name for name in shapes):
        fields.complain(
            "its state_mixer has weights, and only the identity is known here"
        )
    for key, only in (
        ("block_type", "TransformerBlock"),
        ("pre_norm", True),
        ("layer_norm_epsilon", 1e-5),
    ):
        fields.expect(key, only, only)
    return {
        "num_hidden_layers": n_layers,
        "hidden_size": fields.size("d_model"),
        "num_attention_heads": heads,
        "feature_dim": feature_dim,
        "attention_eps": attention_eps,
        "layer_types": layer_types,
        "conv_form": "base",
        "conv_kernel_size": _taps(shapes),
        "mlp": "identity",
        "norm": "layer",
        "use_rope": False,
        "vocab_size": _rows(fields, ZOOLOGY, shapes),
        "max_position_embeddings": fields.size("max_position_embeddings", least=0)
        or None,
        "embedding_dropout": fields.number("embed_dropout", 0.1),
    }


def from_fla(fields: Fields, shapes: Shapes, kernel: str) -> dict[str, Any]:
    """The config of a language model of fla, with ``feature_dim``: the layers that ``attn`` lists are softmax attention.

    Scores are divided by the root of ``feature_dim``, as fla's chunked forms do and, for Based, its parallel form did not in every release.

    Source: fla-org/flash-linear-attention, ``fla/models/linear_attn`` and ``fla/layers``.
    """
    n_layers, d_model, heads = (
        fields.size("num_hidden_layers"),
        fields.size("hidden_size"),
        fields.size("num_heads"),
    )
    fields.expect("num_kv_heads", heads, heads)
    fields.expect("hidden_act", "swish", "swish", "silu")
    width = int(d_model * fields.number("hidden_ratio", 4.0) * 2 / 3)
    found: dict[str, Any] = {
        "num_hidden_layers": n_layers,
        "hidden_size": d_model,
        "num_attention_heads": heads,
        "feature_dim": fields.size("feature_dim"),
        "layer_types": ["linear_attention"] * n_layers,
        "intermediate_size": fields.size("intermediate_size", -(-width // 256) * 256),
        "vocab_size": _rows(fields, FLA, shapes),
        "norm_eps": fields.number("norm_eps", 1e-6),
        "attention_eps": _FLA_EPS.get(kernel, _FLA_EPS["rebased"]),
        "tie_word_embeddings": fields.expect("tie_word_embeddings", False, True, False),
    }
    if "attn" in fields:
        attention = fields.within("attn")
        has_window = "window_size" in attention
        kind: LayerType = "sliding_attention" if has_window else "full_attention"
        softmax = attention.places("layers", n_layers)
        found["layer_types"] = [
            kind if layer in softmax else "linear_attention"
            for layer in range(n_layers)
        ]
        found["rope_theta"] = attention.number("rope_theta", 10000.0)
        if has_window:
            # It counts the token itself.
            found["sliding_window"] = attention.size("window_size") - 1
        _same_heads(attention, heads)
        attention.expect("num_kv_heads", heads, heads)
    return found


def _options(fields: Fields) -> list[Fields]:
    """Of the mixers that take turns, or of the one there is."""
    if "configs" not in fields:
        return [fields]
    configs = fields.value("configs", None)
    if not isinstance(configs, list) or not configs:
        fields.complain(f"{fields.inside}configs must list mixers, and is {configs!r}")
        return [fields]
    return [
        fields.nested(f"configs[{i}]", one).within("kwargs")
        for i, one in enumerate(configs)
    ]


def _rows(fields: Fields, layout: Layout, shapes: Shapes) -> int:
    """The vocabulary, filled up: as many rows as the weights have, if these are enough."""
    wanted, multiple = (
        fields.size("vocab_size"),
        fields.size("pad_vocab_size_multiple", 1),
    )
    there = shapes.get(f"{layout.embeddings}.weight", [0])[0]
    return there if there >= wanted else -(-wanted // multiple) * multiple


def _taps(shapes: Shapes) -> int:
    """How many tokens the convolutions see: their last axis. Configurations have it under two names, of which one has no effect."""
    return next(
        (
            shape[-1]
            for name, shape in shapes.items()
            if name.endswith(".conv.weight") and len(shape) == 3
        ),
        3,
    )


def _same_heads(fields: Fields, heads: int) -> None:
    """All attention in one of our models has one number of heads."""
    if fields.size("num_heads") != heads and "num_heads" in fields:
        fields.complain(
            f"{fields.inside}num_heads is {fields.value('num_heads', None)!r} in a model with {heads} heads, and must be the same"
        )
