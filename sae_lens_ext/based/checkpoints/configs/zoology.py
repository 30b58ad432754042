"""The configs of zoology and corl-team/rebased, whose models are of synthetic tasks.

They are a ModelConfig, or a training config that holds one under ``model``. Which
layers are convolutions and which are linear attention is read off the weights.

Source: HazyResearch/zoology and corl-team/rebased, ``model.py`` and ``mixers``.
"""

from typing import Any, NamedTuple

from sae_lens_ext.based.checkpoints.configs.shared import conv_kernel_size, vocab_size
from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import ZOOLOGY, Shapes, mixers
from sae_lens_ext.based.config import LayerType


class _Attention(NamedTuple):
    """What all layers of linear attention in a model must agree on."""

    num_heads: int = 1
    feature_dim: int = 1
    eps: float = 1e-12


def from_zoology(fields: Fields, shapes: Shapes, kernel: str) -> dict[str, Any]:
    """Fields of ``BasedConfig`` from a config of zoology."""
    if "model" in fields:
        fields = fields.section("model")
    n_layers = fields.integer("n_layers")
    options = _mixer_options(fields)
    _, by_layer = mixers(ZOOLOGY, shapes)

    layer_types: list[LayerType] = []
    attentions: set[_Attention] = set()
    for layer in range(n_layers):
        # Options take turns, as the mixers of a hybrid do.
        mixer = options[layer % len(options)]
        tensors = by_layer.get(layer, {})
        if "projection.weight" in tensors:
            layer_types.append("conv")
            mixer.expect("use_act", False, False)
            continue

        layer_types.append("linear_attention")
        if "proj_q.weight" in tensors:
            attentions.add(_attention(mixer, kernel))
        else:
            names = ", ".join(sorted(tensors)[:4]) or "no mixer"
            fields.report(
                f"layer {layer} holds {names}, and only a convolution with "
                "projection.weight and linear attention with proj_q.weight are "
                "supported here"
            )

    if len(attentions) > 1:
        differing = sorted(tuple(attention) for attention in attentions)
        fields.report(f"layers differ in num_heads, feature_dim or eps: {differing}")
    attention = min(attentions, default=_Attention())
    _check_fixed(fields, shapes)

    n_positions = fields.integer("max_position_embeddings", at_least=0)
    return {
        "num_hidden_layers": n_layers,
        "hidden_size": fields.integer("d_model"),
        "num_attention_heads": attention.num_heads,
        "feature_dim": attention.feature_dim,
        "attention_eps": attention.eps,
        "layer_types": layer_types,
        "conv_form": "base",
        "conv_kernel_size": conv_kernel_size(shapes),
        "mlp": "identity",
        "norm": "layer",
        "use_rope": False,
        "vocab_size": vocab_size(fields, ZOOLOGY, shapes),
        "max_position_embeddings": n_positions or None,
        "embedding_dropout": fields.number("embed_dropout", 0.1),
    }


def _mixer_options(fields: Fields) -> list[Fields]:
    """Options of the mixers that layers have in turns, or of the only one."""
    options = fields.section("sequence_mixer").section("kwargs")
    if "configs" not in options:
        return [options]

    configs = options.value("configs", None)
    if not isinstance(configs, list) or not configs:
        options.report(f"{options.prefix}configs must list mixers; got {configs!r}")
        return [options]
    return [
        options.nested(f"configs[{i}]", config).section("kwargs")
        for i, config in enumerate(configs)
    ]


def _attention(mixer: Fields, kernel: str) -> _Attention:
    n_heads = mixer.integer("num_heads")
    mixer.expect("num_key_value_heads", n_heads, n_heads)
    attention = _Attention(
        n_heads, mixer.integer("feature_dim"), mixer.number("eps", 1e-12)
    )

    # Weights without such norms are taken for "based" if the caller names no kernel.
    options = [key for key in ("use_gamma", "use_beta", "normalize") if key in mixer]
    if kernel == "based" and options:
        mixer.report(
            f"{mixer.prefix}{options[0]} is an option of ReBased, and the weights have "
            "no norm of queries and keys: name with kernel= which of its ablations it "
            "is"
        )
    return attention


def _check_fixed(fields: Fields, shapes: Shapes) -> None:
    """Report options that no model of this package has."""
    if any(".state_mixer." in name for name in shapes):
        fields.report(
            "its state_mixer has weights, and only the identity is supported here"
        )
    expected = {
        "block_type": "TransformerBlock",
        "pre_norm": True,
        "layer_norm_epsilon": 1e-5,
    }
    for key, value in expected.items():
        fields.expect(key, value, value)
