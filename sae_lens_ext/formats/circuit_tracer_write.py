"""From transcoders to a folder that circuit-tracer computes the same with.

Its TopK keeps the k largest pre-activations of a token as they are, negative ones too,
where a transcoder here has ReLU. So the dictionary gets features of zeros behind its
last one, as many as the largest k: their pre-activations are 0, so they come before
every negative one, and there are enough of them to fill all places that positive ones
leave. They reconstruct nothing, and circuit-tracer drops activations of 0, so they
appear nowhere. The numbers of the other features stay.

A set has to hold a transcoder for every layer of the model. One of zeros stands in for
a layer without: nothing of it is ever active, so circuit-tracer counts all that the MLP
adds as error.

Source: circuit-tracer after 0.5.0 (pull request 94), ``load_transcoder_set``, which
    reads ``activation`` and ``k`` from the config.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument, InvalidK
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.circuit_tracer import CONFIG_FILE, FILE
from sae_lens_ext.formats.folder import replacing_files
from sae_lens_ext.formats.reading import refuse_non_finite
from sae_lens_ext.formats.writing import writable_folder, write_tensors

_SITE = re.compile(r"blocks\.(\d+)\.(.+)")
_ACTIVATIONS = {
    "topk": "topk",
    "relu": "relu",
    "jumprelu": "jump_relu",
    "batchtopk": "jump_relu",
}
# Names that circuit-tracer does not know, or takes for another place: what
# TransformerLens itself calls hook_mlp_in is the stream before the MLP's norm.
_HOOKS = {
    "hook_mlp_in": "mlp.hook_in",
    "ln2.hook_in": "hook_resid_mid",
    "hook_in": "hook_resid_pre",
    "hook_out": "hook_resid_post",
}


class _Facts(NamedTuple):
    """What all transcoders of a set have in common."""

    activation: str
    hook_in: str
    hook_out: str
    model_name: str | None
    d_sae: int
    largest_k: int | None


def write_circuit_tracer(
    folder: str | Path,
    checkpoints: Sequence[SAECheckpoint],
    k: int | None = None,
    n_layers: int | None = None,
) -> Path:
    """Write transcoders as a set for circuit-tracer; returns the folder.

    All files are replaced as one.

    Args:
        folder: where to write.
        checkpoints: the transcoders, one per layer; the sites say which.
        k: active features per token, for the kind topk; None takes the largest that
            they were trained at.
        n_layers: layers of the model; those without a transcoder get one of zeros. None
            writes the transcoders alone.

    Raises:
        InvalidArgument: not transcoders of one kind, width and size, between sites of
            the same names on different layers, below ``n_layers``; or a folder that
            cannot be written to, or holds other layers. Nothing is written.
        InvalidK: k is out of range, or given for another kind.
        NonFinite: a tensor holds NaN or infinity. Nothing is written.
    """
    layers = _by_layer(checkpoints)
    facts = _common_facts(checkpoints)
    k = _checked_k(k, facts)
    files = {
        f"layer_{layer}.safetensors": tensors
        for layer, tensors in _tensors_by_layer(layers, n_layers).items()
    }
    for name, tensors in files.items():
        refuse_non_finite(tensors, f"the transcoder for {name}")
    folder = writable_folder(folder)
    _refuse_other_layers(folder, files)

    try:
        with replacing_files(folder, [*files, CONFIG_FILE]) as temporary:
            for name, tensors in files.items():
                write_tensors(temporary / name, tensors)
            config = _config(facts, k)
            (temporary / CONFIG_FILE).write_text(config, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InvalidArgument(
            f"{folder} cannot be written to, and is as it was: {error}"
        ) from error
    return folder


def _by_layer(checkpoints: Sequence[SAECheckpoint]) -> dict[int, SAECheckpoint]:
    layers: dict[int, SAECheckpoint] = {}
    for checkpoint in checkpoints:
        layer, _, _ = _sites(checkpoint)
        if layer in layers:
            raise InvalidArgument(
                f"a set has one transcoder per layer; got several for layer {layer}"
            )
        layers[layer] = checkpoint
    if not layers:
        raise InvalidArgument("a set needs at least one transcoder; got none")
    return layers


def _sites(checkpoint: SAECheckpoint) -> tuple[int, str, str]:
    """The layer, and the names of both sites within it."""
    if checkpoint.d_out is None:
        raise InvalidArgument(
            "circuit-tracer reads transcoders; got an autoencoder, without a d_out"
        )
    if checkpoint.d_out != checkpoint.d_model:
        raise InvalidArgument(
            "circuit-tracer reads transcoders that write the width they read; got "
            f"d_model={checkpoint.d_model}, d_out={checkpoint.d_out}"
        )
    names = [checkpoint.metadata.get(key) for key in ("hook_name", "hook_name_out")]
    matches = [_SITE.fullmatch(str(name)) for name in names]
    source, target = matches
    if source is None or target is None or source[1] != target[1]:
        raise InvalidArgument(
            "hook_name and hook_name_out must be sites of one block, such as "
            "'blocks.3.mlp.hook_in' and 'blocks.3.hook_mlp_out'; got "
            f"{names[0]!r} and {names[1]!r}; set them with with_config"
        )
    hook_in = _HOOKS.get(source[2], source[2])
    hook_out = _HOOKS.get(target[2], target[2])
    return int(source[1]), hook_in, hook_out


def _common_facts(checkpoints: Sequence[SAECheckpoint]) -> _Facts:
    facts = []
    for checkpoint in checkpoints:
        _, hook_in, hook_out = _sites(checkpoint)
        facts.append(
            _Facts(
                _ACTIVATIONS[checkpoint.kind],
                hook_in,
                hook_out,
                checkpoint.metadata.get("model_name"),
                checkpoint.d_sae,
                checkpoint.k,
            )
        )
    for name, *values in zip(_Facts._fields, *facts, strict=True):
        if len(set(values)) > 1:
            raise InvalidArgument(
                f"the transcoders of a set must have the same {name}; got "
                f"{', '.join(str(value) for value in dict.fromkeys(values))}"
            )
    return facts[0]


def _checked_k(k: int | None, facts: _Facts) -> int | None:
    if facts.largest_k is None:
        if k is not None:
            raise InvalidK(
                f"k={k} is for transcoders of kind topk: circuit-tracer cannot cut the "
                f"activations of {facts.activation}"
            )
        return None
    if k is None:
        return facts.largest_k
    return arguments.k(k, facts.largest_k, "the largest trained k")


def _tensors_by_layer(
    layers: Mapping[int, SAECheckpoint], n_layers: int | None
) -> dict[int, dict[str, Tensor]]:
    """The tensors of every file, of zeros for layers without a transcoder."""
    tensors = {
        layer: _tensors(checkpoint) for layer, checkpoint in sorted(layers.items())
    }
    if n_layers is None:
        return tensors

    last = max(tensors)
    if arguments.positive_int(n_layers, "n_layers") <= last:
        raise InvalidArgument(
            f"n_layers={n_layers} leaves out layer {last}, which has a transcoder; "
            "give the number of layers of the model"
        )
    zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors[last].items()}
    return {layer: tensors.get(layer, zeros) for layer in range(n_layers)}


def _tensors(checkpoint: SAECheckpoint) -> dict[str, Tensor]:
    """The tensors under circuit-tracer's names, in its layout."""
    ours = checkpoint.tensors
    b_enc = ours["b_enc"]
    if checkpoint.apply_b_dec_to_input:
        wide = torch.promote_types(torch.float32, b_enc.dtype)
        before = ours["b_dec"].to(wide) @ ours["W_enc"].to(wide)
        b_enc = (b_enc.to(wide) - before).to(b_enc.dtype)

    n_zeros = checkpoint.k or 0
    tensors = {
        "W_enc": _with_zeros(ours["W_enc"].T, n_zeros),
        "b_enc": _with_zeros(b_enc, n_zeros),
        "W_dec": _with_zeros(ours["W_dec"], n_zeros),
        "b_dec": ours["b_dec"],
    }
    if "threshold" in ours:
        # Its JumpReLU has no ReLU.
        tensors["activation_function.threshold"] = ours["threshold"].clamp_min(0)
    if "W_skip" in ours:
        tensors["W_skip"] = ours["W_skip"].T
    return tensors


def _with_zeros(tensor: Tensor, n: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(n, *tensor.shape[1:])])


def _refuse_other_layers(folder: Path, files: Mapping[str, object]) -> None:
    # Circuit-tracer takes every layer that it finds for one of the set.
    names = [path.name for path in folder.glob("layer_*")]
    others = [name for name in names if FILE.fullmatch(name) and name not in files]
    if others:
        raise InvalidArgument(
            f"{folder} holds {', '.join(sorted(others))}, of another set; choose "
            "another folder, or pass the transcoders of all layers at once"
        )


def _config(facts: _Facts, k: int | None) -> str:
    """The text of config.yaml; JSON's strings are YAML's too."""
    values: dict[str, object] = {
        "model_name": facts.model_name,
        "model_kind": "transcoder_set",
        "feature_input_hook": facts.hook_in,
        "feature_output_hook": facts.hook_out,
        "activation": facts.activation,
        "k": k,
    }
    lines = [
        f"{key}: {json.dumps(value)}"
        for key, value in values.items()
        if value is not None
    ]
    if k is not None:
        lines.append(f"# Any k up to {facts.largest_k} may be written here.")
    return "\n".join(lines) + "\n"
