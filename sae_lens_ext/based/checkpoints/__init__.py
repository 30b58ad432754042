"""Published Based and ReBased weights, as the models of this package.

=================================================== ==============================================================
published as                                        by
=================================================== ==============================================================
``transformer.layers.N.mixer...``                   ``hazyresearch/based-*``, ``elephantmipt/*based-*`` on the hub
``backbone.layers.N.sequence_mixer...``             zoology and corl-team/rebased, for the synthetic tasks
``model.layers.N.attn...``                          language models of flash-linear-attention
a folder of ``BasedForCausalLM.save_pretrained``    this package
=================================================== ==============================================================

One reader each would repeat itself: ``layouts`` says what parts are called, ``configs`` reads ``config.json``, ``kernels`` finds out
whether it is Based or ReBased, and ``assemble`` compares everything with the model that comes of it before it moves anything.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from sae_lens_ext.based.checkpoints.assemble import (
    compare,
    empty_model,
    expected_shapes,
    fill,
)
from sae_lens_ext.based.checkpoints.configs import from_fla, from_hub, from_zoology
from sae_lens_ext.based.checkpoints.feature_maps import choose_kernel, find_norms
from sae_lens_ext.based.checkpoints.fields import Fields
from sae_lens_ext.based.checkpoints.layouts import (
    FLA,
    HUB,
    ZOOLOGY,
    Layout,
    Places,
    Shapes,
    mixers,
    places,
)
from sae_lens_ext.based.config import FEATURE_MAPS, BasedConfig, FeatureMapName
from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.formats.reading import read_object
from sae_lens_ext.formats.weights import locate_weights, read_weights

_LAYOUTS = ((HUB, from_hub), (ZOOLOGY, from_zoology), (FLA, from_fla))


def load_checkpoint(
    folder_or_repo: str | Path,
    *,
    kernel: FeatureMapName | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> BasedForCausalLM:
    """A published model with its weights, on the CPU, ready to run; every tensor is accounted for, or nothing is loaded.

    Whether it is Based or ReBased is read off the weights: ReBased has a norm of its queries and keys with parameters. Kernels that have
    the same parameters must be told by name. How the hub's ReBased models name that norm was not known when this was written (its code
    says ``ln_q`` and ``ln_k``), so it is recognised by its shape: see ``checkpoints.feature_maps``.

    Left out without a word, as the published code does: a leading ``model.``, counters of metrics, a decay that no mixer reads, and the
    frequencies of rotary positions, which follow from the config.

    Args:
        folder_or_repo: a folder with ``config.json`` and weights, or the name of a repository on the hub.
        kernel: of linear attention; None for "based" or "rebased", whichever the weights are.
        dtype: of the weights; None for what they are stored in, or the widest of them.
        revision: branch, tag or commit of the repository; ignored for folders.

    Raises:
        FormatError: no such folder or repository, no weights, a config or weights that are no model of this kind, or a ``kernel`` that the
            weights are not of. Everything that is wrong is in one message.
        NonFinite: NaN or infinity in the weights.
        InvalidArgument: no such kernel or dtype.
        MissingDependency: a repository was named and huggingface_hub is not installed.
    """
    if kernel is not None and kernel not in tuple(FEATURE_MAPS):
        raise InvalidArgument(
            f"kernel must be one of {', '.join(FEATURE_MAPS)}, or None; got {kernel!r}"
        )
    if dtype is not None and not (
        isinstance(dtype, torch.dtype) and dtype.is_floating_point
    ):
        raise InvalidArgument(
            f"dtype must be a floating point one of torch, such as torch.float32, or None; got {dtype!r}"
        )
    folder = locate_weights(folder_or_repo, revision=revision)
    path = folder / "config.json"
    described = read_object(
        path,
        "nothing says how its weights are put together: add the config.json it was published with",
    )
    generation = _generation_config(folder)
    weights = _needed(read_weights(folder))
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    try:
        if described.get("model_type") == BasedConfig.model_type:
            config = _own_config(path, described, kernel)
            model = empty_model(config)
            where_from: Places = {
                name.removeprefix("model."): (name,)
                for name, _ in model.named_parameters()
            }
        else:
            config, norms, layout = _published_config(path, described, shapes, kernel)
            model = empty_model(config)
            where_from = places(
                layout, config, shapes, norms, dict(model.named_parameters())
            )
    except InvalidArgument as error:
        raise FormatError(
            f"{path} describes no model that can be loaded here: {error}"
        ) from error
    if config.tie_word_embeddings:
        embedding = next(
            name
            for name, ours in where_from.items()
            if "model.embed_tokens.weight" in ours
        )
        head, _ = (
            weights.pop("lm_head.weight", None),
            shapes.pop("lm_head.weight", None),
        )
        if (
            head is not None
            and embedding in weights
            and not torch.equal(head, weights[embedding])
        ):
            raise FormatError(
                f"{path} says that lm_head.weight is {embedding} (tie_word_embeddings), and it is not"
            )
    compare(shapes, expected_shapes(model, where_from), str(folder))
    model = fill(model, where_from, weights, dtype, str(folder))
    if generation is not None:
        model.generation_config = generation
    return model


def _generation_config(folder: Path) -> GenerationConfig | None:
    path = folder / "generation_config.json"
    if not path.is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(folder)
    # It checks little, so what is no config fails somewhere inside.
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} is no generation config ({error}); mend it, or take it out of the folder"
        ) from error


def _needed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what no model needs, and without a prefix."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if (
            "metrics" in name
            or "decay" in name.split(".")
            or name.endswith(".inv_freq")
        ):
            continue
        if name.removeprefix("model.") in found:
            raise FormatError(
                f"the weights hold {name.removeprefix('model.')} with and without a leading 'model.'; keep one of them"
            )
        found[name.removeprefix("model.")] = tensor
    return found


def _own_config(
    path: Path, described: Mapping[str, object], kernel: FeatureMapName | None
) -> BasedConfig:
    config = BasedConfig.from_dict(dict(described))
    if kernel not in (None, config.kernel):
        raise FormatError(
            f"{path} says kernel {config.kernel!r}, and kernel={kernel!r} was asked for; leave kernel out"
        )
    return config


def _published_config(
    path: Path,
    described: Mapping[str, object],
    shapes: Shapes,
    kernel: FeatureMapName | None,
) -> tuple[BasedConfig, dict[str, str], Layout]:
    for layout, read in _LAYOUTS:
        _, by_layer = mixers(layout, shapes)
        if by_layer:
            norms = find_norms(by_layer.values())
            chosen = choose_kernel(kernel, norms, path)
            fields = Fields(path, described)
            values = read(fields, shapes, chosen)
            fields.check()
            norm_layout = "wide" if norms is None else norms.layout
            return (
                BasedConfig(kernel=chosen, norm_layout=norm_layout, **values),
                {} if norms is None else norms.names,
                layout,
            )
    wanted = ", ".join(f"{layout.layers}.0.{layout.mixer[0]}" for layout, _ in _LAYOUTS)
    there = ", ".join(list(shapes)[:3]) or "nothing"
    raise FormatError(
        f"{path.parent} holds no model of a kind that is known here: none of its tensors is in {wanted}; it holds {there}"
    )
