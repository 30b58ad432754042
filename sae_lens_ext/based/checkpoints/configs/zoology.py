"""The configs of zoology and corl-team/rebased, whose models are of synthetic tasks.

They are a ModelConfig, or a training config that holds one under ``model``. Which
layers are convolutions and which are linear attention is read off the weights.

Source: HazyResearch/zoology and corl-team/rebased, ``model.py`` and ``mixers``.
"""

from typing import Any, NamedTuple

from sae_lens_ext.based.checkpoints.configs.shared import (
    check_attention_options,
    check_feature_map,
    conv_kernel_size,
    vocab_size,
)
from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import ZOOLOGY, Shapes, mixers
from sae_lens_ext.based.config import LayerType

# Fields that change no numbers of a loaded model, and why.
_HARMLESS = {
    "name": "of the run",
    "num_heads": "mixers have their own",
    "use_gamma": "mixers have their own",
    "use_beta": "mixers have their own",
    "normalize": "mixers have their own",
    "affine_norm": "its tensors are compared",
    "learnable_word_embeddings": "only whether they are trained",
    "resid_dropout": "only in training",
    "drop_path": "only in training",
    "gradient_checkpointing": "only in training",
    "log_scores": "only what is logged",
}
_HARMLESS_IN_MIXER = {
    "l_max": "longest text of the training",
    "kernel_size": "it is read off the weights",
    "implicit_long_conv": "of long convolutions, whose tensors are other ones",
    "layer_idx": "the number of the layer",
    "mode": "which implementation runs",
    "train_view": "which implementation runs",
    "dropout": "only in training",
}


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
            mixer.expect(
                "use_act", False, False, effect="otherwise SiLU stands around both"
            )
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
    for mixer in options:
        mixer.refuse_others(_HARMLESS_IN_MIXER)

    n_positions = fields.integer("max_position_embeddings", at_least=0)
    config = {
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
    fields.refuse_others(_HARMLESS)
    return config


def _mixer_options(fields: Fields) -> list[Fields]:
    """Options of the mixers that layers have in turns, or of the only one."""
    sequence_mixer = fields.section("sequence_mixer")
    options = sequence_mixer.section("kwargs")
    sequence_mixer.refuse_others({"name"})
    if "configs" not in options:
        return [options]

    configs = options.value("configs", None)
    if not isinstance(configs, list) or not configs:
        options.report(f"{options.prefix}configs must list mixers; got {configs!r}")
        return [options]
    options.refuse_others(_HARMLESS_IN_MIXER)
    mixers_in_turns = [
        options.nested(f"configs[{i}]", config) for i, config in enumerate(configs)
    ]
    kwargs = [mixer.section("kwargs") for mixer in mixers_in_turns]
    for mixer in mixers_in_turns:
        mixer.refuse_others({"name"})
    return kwargs


def _attention(mixer: Fields, kernel: str) -> _Attention:
    n_heads = mixer.integer("num_heads")
    mixer.expect("num_key_value_heads", n_heads, n_heads)
    attention = _Attention(
        n_heads, mixer.integer("feature_dim"), mixer.number("eps", 1e-12)
    )

    check_feature_map(mixer, "feature_name", kernel)
    check_attention_options(mixer, kernel)
    return attention


def _check_fixed(fields: Fields, shapes: Shapes) -> None:
    """Report options that no model of this package has."""
    if any(".state_mixer." in name for name in shapes):
        fields.report(
            "its state_mixer has weights, and only the identity is supported here"
        )
    state_mixer = fields.section("state_mixer")
    name = str(state_mixer.value("name", "Identity"))
    if name.rpartition(".")[2] != "Identity":
        fields.report(
            f"state_mixer.name is {name!r}, and only the identity is supported here"
        )
    expected = {
        "block_type": ("TransformerBlock", "other blocks add and normalise otherwise"),
        "pre_norm": (True, "otherwise norms stand behind the mixers"),
        "layer_norm_epsilon": (1e-5, "it is that of the last norm alone"),
        "word_embed_proj_dim": (None, "otherwise embeddings are projected"),
    }
    for key, (value, effect) in expected.items():
        fields.expect(key, value, value, effect=effect)
