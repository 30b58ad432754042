"""Where publications keep the parameters of a model, and what we call each of them.

A layout says what the parts of a model are called around the mixers. The parts of a
mixer are recognised by what is there: a publication spells each of them in one of a few
ways, the same way in all of its layers.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sae_lens_ext.based.config import BasedConfig

Shapes = Mapping[str, Sequence[int]]
"""Tensors by name, of which only the shape counts."""

Places = dict[str, tuple[str, ...]]
"""Published name -> our names; several where one tensor holds them one under the
other."""


@dataclass(frozen=True)
class Layout:
    """What a publication calls the modules of a model.

    Inside a layer, names are relative to it.

    Attributes:
        embeddings: of tokens.
        positions: learned ones.
        layers: without the layer's number.
        mixer: in a layer; the first of these that any layer has.
        norms: in a layer, before the mixer and before the MLP.
        mlp: in a layer, and which of our modules each holds, one under the other.
        norm: the last one.
    """

    embeddings: str
    positions: str
    layers: str
    mixer: tuple[str, ...]
    norms: tuple[str, str]
    mlp: Mapping[str, tuple[str, ...]]
    norm: str


HUB = Layout(
    embeddings="transformer.embeddings.word_embeddings",
    positions="transformer.embeddings.position_embeddings",
    layers="transformer.layers",
    mixer=("mixer",),
    norms=("norm1", "norm2"),
    mlp={
        # Two halves: what is gated, then the gate.
        "mlp.fc1": ("mlp.up_proj", "mlp.gate_proj"),
        "mlp.fc2": ("mlp.down_proj",),
    },
    norm="transformer.ln_f",
)
"""``hazyresearch/based-*``, ``elephantmipt/*based-*``: a GPT of flash-attn with other
mixers."""

ZOOLOGY = Layout(
    embeddings="backbone.embeddings.word_embeddings",
    positions="backbone.embeddings.position_embeddings",
    layers="backbone.layers",
    mixer=("sequence_mixer.mixer", "sequence_mixer"),
    norms=("norm1", "norm2"),
    mlp={},
    norm="backbone.ln_f",
)
"""The models of the synthetic tasks, as zoology and corl-team/rebased name them."""

FLA = Layout(
    embeddings="embeddings",
    positions="",
    layers="layers",
    mixer=("attn",),
    norms=("attn_norm", "mlp_norm"),
    mlp={
        "mlp.gate_proj": ("mlp.gate_proj",),
        "mlp.up_proj": ("mlp.up_proj",),
        "mlp.down_proj": ("mlp.down_proj",),
    },
    norm="norm",
)
"""The language models of flash-linear-attention.

It has layers of Based and ReBased but no model of them; this is how it names others.
"""

Spellings = Sequence[tuple[tuple[str, ...], tuple[str, ...]]]
"""Our modules of a mixer, and how publications spell the one that holds them.

A module that is not there counts as missing under its first spelling.
"""

_CONVOLUTION: Spellings = [
    (("in_proj",), ("in_proj", "projection")),
    (("conv",), ("conv.conv", "conv1.conv")),
    (("out_proj",), ("out_proj",)),
]
_LINEAR_ATTENTION: Spellings = [
    (("q_proj",), ("proj_q", "q_proj")),
    (("k_proj",), ("proj_k", "k_proj")),
    (("v_proj",), ("proj_v", "v_proj")),
    (("o_proj",), ("out_proj", "proj_o", "o_proj")),
]
# Rows of queries, of keys, of values; heads inside each.
_FUSED_ATTENTION: Spellings = [
    (("q_proj", "k_proj", "v_proj"), ("Wqkv",)),
    (("o_proj",), ("out_proj",)),
]
_ATTENTION: Spellings = [
    (("q_proj",), ("q_proj",)),
    (("k_proj",), ("k_proj",)),
    (("v_proj",), ("v_proj",)),
    (("o_proj",), ("o_proj",)),
]


def mixers(layout: Layout, shapes: Shapes) -> tuple[str, dict[int, Shapes]]:
    """Find the mixers of a publication.

    Returns:
        What a mixer is called in a layer, and the tensors of each layer's mixer,
        relative to it; the latter are empty where the publication has another layout.
    """
    for mixer in layout.mixer:
        by_layer: dict[int, dict[str, Sequence[int]]] = {}
        for name, shape in shapes.items():
            if not name.startswith(f"{layout.layers}."):
                continue
            layer, _, path = name.removeprefix(f"{layout.layers}.").partition(".")
            if layer.isdecimal() and path.startswith(f"{mixer}."):
                tensors = by_layer.setdefault(int(layer), {})
                tensors[path.removeprefix(f"{mixer}.")] = shape
        if by_layer:
            return mixer, dict(by_layer)
    return layout.mixer[0], {}


def places(
    layout: Layout,
    config: BasedConfig,
    shapes: Shapes,
    norms: Mapping[str, str],
    ours: Collection[str],
) -> Places:
    """Which of our parameters each published tensor holds.

    Every one of ``ours`` is in it once, except for tied ones.

    Args:
        layout: what modules are called.
        config: of our model.
        shapes: of the published tensors, by which spellings are told apart.
        norms: parameters of ReBased's norms, relative to the mixer -> our names.
        ours: names of our model's parameters.
    """
    mixer, by_layer = mixers(layout, shapes)
    # Type of layer -> modules that the mixers of such layers have.
    modules_of_type: dict[str, set[str]] = {kind: set() for kind in config.layer_types}
    for layer, tensors in by_layer.items():
        if layer < len(config.layer_types):
            modules = modules_of_type[config.layer_types[layer]]
            modules.update(name.rpartition(".")[0] for name in tensors)

    # Biases are where our model has them, whichever the spelling of the module.
    tensor_places: Places = {}
    for published, modules in _modules(layout, config, mixer, modules_of_type):
        for leaf in ("weight", "bias"):
            names = tuple(f"{module}.{leaf}" for module in modules)
            if all(name in ours for name in names):
                tensor_places[f"{published}.{leaf}"] = names

    # Norms are not among the spellings, since they are found by their shape.
    for layer, layer_type in enumerate(config.layer_types):
        if layer_type == "linear_attention":
            for published, name in norms.items():
                path = f"{layout.layers}.{layer}.{mixer}.{published}"
                tensor_places[path] = (f"model.layers.{layer}.mixer.{name}",)
    return tensor_places


def _modules(
    layout: Layout,
    config: BasedConfig,
    mixer: str,
    modules_of_type: Mapping[str, Collection[str]],
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Published modules, each with those of our modules that it holds."""
    yield layout.embeddings, ("model.embed_tokens",)
    yield layout.positions, ("model.embed_positions",)
    yield layout.norm, ("model.norm",)
    yield "lm_head", ("lm_head",)

    for layer, layer_type in enumerate(config.layer_types):
        parts = {layout.norms[0]: ("norm1",), layout.norms[1]: ("norm2",), **layout.mlp}
        published_modules = modules_of_type[layer_type]
        for modules, spellings in _spellings(layer_type, published_modules):
            present = [name for name in spellings if name in published_modules]
            name = present[0] if present else spellings[0]
            parts[f"{mixer}.{name}"] = tuple(f"mixer.{module}" for module in modules)

        for published, modules in parts.items():
            ours = tuple(f"model.layers.{layer}.{module}" for module in modules)
            yield f"{layout.layers}.{layer}.{published}", ours


def _spellings(layer_type: str, published_modules: Collection[str]) -> Spellings:
    if layer_type == "conv":
        return _CONVOLUTION
    if layer_type == "linear_attention":
        return _LINEAR_ATTENTION
    return _ATTENTION if "q_proj" in published_modules else _FUSED_ATTENTION
