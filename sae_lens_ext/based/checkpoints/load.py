"""Loading a published model: its config, its kernel, its weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from sae_lens_ext import _arguments as arguments
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
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
) -> BasedForCausalLM:
    """Load a published model with its weights, on the CPU, ready to run.

    Every tensor is accounted for, or nothing is loaded.

    Whether it is Based or ReBased is read off the weights: ReBased has a norm of its
    queries and keys with parameters. Kernels with the same parameters have to be named.
    How the hub's ReBased models name that norm was not known when this was written (its
    code says ``ln_q`` and ``ln_k``), so it is recognised by its shape: see
    ``checkpoints.feature_maps``.

    Left out silently, as the published code does: a leading ``model.``, counters of
    metrics, a decay that no mixer reads, and the frequencies of rotary positions, which
    follow from the config.

    Args:
        folder_or_repo: a folder with ``config.json`` and weights, or the name of a
            repository on the hub.
        kernel: of linear attention; None for "based" or "rebased", whichever the
            weights are of.
        dtype: of the weights; None for the dtype they are stored in, or the widest of
            several.
        revision: branch, tag or commit of the repository; ignored for folders.

    Raises:
        FormatError: a missing folder or repository, missing weights, a config or
            weights of another kind of model, or a ``kernel`` that the weights are not
            of. One message holds everything that is wrong.
        NonFinite: NaN or infinity in the weights.
        InvalidArgument: an unknown kernel or dtype.
        MissingDependency: a repository was named and huggingface_hub is not installed.
    """
    if kernel is not None:
        arguments.choice(kernel, "kernel", FEATURE_MAPS)
    if dtype is not None:
        dtype = arguments.dtype(dtype)

    folder = locate_weights(folder_or_repo, revision=revision)
    path = folder / "config.json"
    description = read_object(
        path,
        "nothing says how its weights are put together: add the config.json it was "
        "published with",
    )
    # Before the weights, which take far longer to read.
    generation_config = _generation_config(folder)
    weights = _without_extras(read_weights(folder))

    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    try:
        model, tensor_places = _empty_model(path, description, shapes, kernel)
    except InvalidArgument as error:
        raise FormatError(
            f"{path} does not describe a model that can be loaded here: {error}"
        ) from error
    if model.config.tie_word_embeddings:
        _drop_tied_head(weights, tensor_places, path)
        shapes.pop("lm_head.weight", None)

    compare(shapes, expected_shapes(model, tensor_places), str(folder))
    model = fill(model, tensor_places, weights, dtype, str(folder))
    if generation_config is not None:
        model.generation_config = generation_config
    return model


def _generation_config(folder: Path) -> GenerationConfig | None:
    path = folder / "generation_config.json"
    if not path.is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(folder)
    # transformers checks little of it, so other contents fail somewhere inside.
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} is not a generation config ({error}); correct it, or take it out "
            "of the folder"
        ) from error


def _without_extras(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what no model needs, and the prefix ``model.``."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        is_extra = (
            "metrics" in name
            or "decay" in name.split(".")
            or name.endswith(".inv_freq")
        )
        if is_extra:
            continue
        short = name.removeprefix("model.")
        if short in tensors:
            raise FormatError(
                f"the weights hold {short} with and without a leading 'model.'; keep "
                "one of them"
            )
        tensors[short] = tensor
    return tensors


def _empty_model(
    path: Path,
    description: Mapping[str, object],
    shapes: Shapes,
    kernel: FeatureMapName | None,
) -> tuple[BasedForCausalLM, Places]:
    """Make the model that a config describes, and find the places of its parameters."""
    # A folder that this package has written.
    if description.get("model_type") == BasedConfig.model_type:
        model = empty_model(_own_config(path, description, kernel))
        own_places: Places = {
            name.removeprefix("model."): (name,) for name, _ in model.named_parameters()
        }
        return model, own_places

    config, norm_names, layout = _published_config(path, description, shapes, kernel)
    model = empty_model(config)
    parameters = dict(model.named_parameters())
    return model, places(layout, config, shapes, norm_names, parameters)


def _own_config(
    path: Path, description: Mapping[str, object], kernel: FeatureMapName | None
) -> BasedConfig:
    """Config of a folder that this package has written."""
    config = BasedConfig.from_dict(dict(description))
    if kernel not in (None, config.kernel):
        raise FormatError(
            f"{path} has kernel {config.kernel!r}, and kernel={kernel!r} was asked "
            "for; leave kernel out"
        )
    return config


def _published_config(
    path: Path,
    description: Mapping[str, object],
    shapes: Shapes,
    kernel: FeatureMapName | None,
) -> tuple[BasedConfig, dict[str, str], Layout]:
    """Config of a publication, the names of its norms' parameters, and its layout."""
    for layout, read in _LAYOUTS:
        _, by_layer = mixers(layout, shapes)
        if not by_layer:
            continue
        norms = find_norms(by_layer.values())
        chosen = choose_kernel(kernel, norms, path)
        fields = Fields(path, description)
        values = read(fields, shapes, chosen)
        fields.check()

        norm_layout = "wide" if norms is None else norms.layout
        norm_names = {} if norms is None else norms.names
        config = BasedConfig(kernel=chosen, norm_layout=norm_layout, **values)
        return config, norm_names, layout

    mixer_names = [f"{layout.layers}.0.{layout.mixer[0]}" for layout, _ in _LAYOUTS]
    names = ", ".join(list(shapes)[:3]) or "nothing"
    raise FormatError(
        f"{path.parent} does not hold a model of a supported kind: its tensors are "
        f"outside of {', '.join(mixer_names)}; it holds {names}"
    )


def _drop_tied_head(
    weights: dict[str, Tensor], tensor_places: Places, path: Path
) -> None:
    """Take out a head that the config says is the embedding, if it is the embedding."""
    head = weights.pop("lm_head.weight", None)
    # Some uploads hold the head as well, others leave it out.
    embedding = next(
        name
        for name, parameters in tensor_places.items()
        if "model.embed_tokens.weight" in parameters
    )
    if head is None or embedding not in weights:
        return
    if not torch.equal(head, weights[embedding]):
        raise FormatError(
            f"{path} says that lm_head.weight is {embedding} (tie_word_embeddings), "
            "but they differ"
        )
