"""Where publications keep the parameters of a model, and which of ours each one is.

A layout says what the parts of a model are called around the mixers. Mixers are found by what is there: a publication spells a part of
them in one of a few ways, and the same way in all of its layers.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sae_lens_ext.based.config import BasedConfig

Shapes = Mapping[str, Sequence[int]]
"""Tensors by name, of which only the shape is looked at."""

Places = dict[str, tuple[str, ...]]
"""Published name -> our names; several where one tensor holds them one under the other."""


@dataclass(frozen=True)
class Layout:
    """What a publication calls the modules of a model; inside a layer, names are relative to it.

    Attributes:
        embeddings: of tokens.
        positions: learned ones.
        layers: without the layer's number.
        mixer: in a layer; the first of these that any layer has.
        norms: in a layer, before the mixer and before the MLP.
        mlp: in a layer, and which of our modules it holds, one under the other.
        norm: the last one.
    """

    embeddings: str
    positions: str
    layers: str
    mixer: tuple[str, ...]
    norms: tuple[str, str]
    mlp: Mapping[str, tuple[str, ...]]
    norm: str


# fc1 is two halves: what is gated, then the gate.
_FUSED_MLP = {
    "mlp.fc1": ("mlp.up_proj", "mlp.gate_proj"),
    "mlp.fc2": ("mlp.down_proj",),
}

HUB = Layout(
    embeddings="transformer.embeddings.word_embeddings",
    positions="transformer.embeddings.position_embeddings",
    layers="transformer.layers",
    mixer=("mixer",),
    norms=("norm1", "norm2"),
    mlp=_FUSED_MLP,
    norm="transformer.ln_f",
)
"""``hazyresearch/based-*`` and ``elephantmipt/*based-*``: a GPT of flash-attn with other mixers."""

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
        f"mlp.{name}": (f"mlp.{name}",)
        for name in ("gate_proj", "up_proj", "down_proj")
    },
    norm="norm",
)
"""The language models of flash-linear-attention. It has layers of Based and ReBased, but no model of them: this is how it names others."""

Spellings = Sequence[tuple[tuple[str, ...], tuple[str, ...]]]
"""Our modules of a mixer, and how publications spell the one that holds them. What is not there is missed under the first spelling."""

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
# Rows of queries, of keys, of values; heads inside.
_FUSED_ATTENTION: Spellings = [
    (("q_proj", "k_proj", "v_proj"), ("Wqkv",)),
    (("o_proj",), ("out_proj",)),
]
_ATTENTION: Spellings = [
    ((name,), (name,)) for name in ("q_proj", "k_proj", "v_proj", "o_proj")
]


def mixers(layout: Layout, shapes: Shapes) -> tuple[str, dict[int, Shapes]]:
    """What mixers are called in a layer, and the tensors of each layer's, relative to it."""
    for mixer in layout.mixer:
        found: dict[int, dict[str, Sequence[int]]] = {}
        for name, shape in shapes.items():
            layer, _, rest = name.removeprefix(f"{layout.layers}.").partition(".")
            if (
                name.startswith(f"{layout.layers}.")
                and layer.isdecimal()
                and rest.startswith(f"{mixer}.")
            ):
                found.setdefault(int(layer), {})[rest.removeprefix(f"{mixer}.")] = shape
        if found:
            return mixer, dict(found)
    return layout.mixer[0], {}


def places(
    layout: Layout,
    config: BasedConfig,
    shapes: Shapes,
    norms: Mapping[str, str],
    ours: Collection[str],
) -> Places:
    """Which of our parameters a published name stands for; every one of ``ours`` is in it once, but for tied ones.

    Args:
        layout: what modules are called.
        config: of our model.
        shapes: of what is published, by which spellings are told apart.
        norms: the parameters of ReBased's norms, relative to the mixer -> ours.
        ours: names of our model's parameters.
    """
    mixer, by_layer = mixers(layout, shapes)
    there = {
        kind: {
            name.rpartition(".")[0]
            for layer in by_layer
            if _at(config, layer) == kind
            for name in by_layer[layer]
        }
        for kind in set(config.layer_types)
    }
    found: Places = {}
    for published, modules in _modules(layout, config, mixer, there):
        for leaf in ("weight", "bias"):
            names = tuple(f"{module}.{leaf}" for module in modules)
            if all(name in ours for name in names):
                found[f"{published}.{leaf}"] = names
    for layer, kind in enumerate(config.layer_types):
        if kind == "linear_attention":
            for published, name in norms.items():
                found[f"{layout.layers}.{layer}.{mixer}.{published}"] = (
                    f"model.layers.{layer}.mixer.{name}",
                )
    return found


def _at(config: BasedConfig, layer: int) -> str | None:
    return config.layer_types[layer] if layer < len(config.layer_types) else None


def _modules(
    layout: Layout,
    config: BasedConfig,
    mixer: str,
    there: Mapping[str, Collection[str]],
) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield layout.embeddings, ("model.embed_tokens",)
    yield layout.positions, ("model.embed_positions",)
    yield layout.norm, ("model.norm",)
    yield "lm_head", ("lm_head",)
    for layer, kind in enumerate(config.layer_types):
        here, our = f"{layout.layers}.{layer}", f"model.layers.{layer}"
        parts = {layout.norms[0]: ("norm1",), layout.norms[1]: ("norm2",), **layout.mlp}
        for modules, spellings in _spellings(kind, there[kind]):
            name = next((one for one in spellings if one in there[kind]), spellings[0])
            parts[f"{mixer}.{name}"] = tuple(f"mixer.{module}" for module in modules)
        for published, modules in parts.items():
            yield f"{here}.{published}", tuple(f"{our}.{module}" for module in modules)


def _spellings(kind: str, there: Collection[str]) -> Spellings:
    if kind == "conv":
        return _CONVOLUTION
    if kind == "linear_attention":
        return _LINEAR_ATTENTION
    return _ATTENTION if "q_proj" in there else _FUSED_ATTENTION
