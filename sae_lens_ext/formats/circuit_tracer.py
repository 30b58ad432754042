"""Sets of transcoders for circuit-tracer: ``config.yaml`` and a file for every layer.

The files are ``layer_{n}.safetensors``; the config names the sites for all of them.

Source: circuit-tracer 0.5, ``SingleLayerTranscoder`` and ``load_relu_transcoder``; the
    loader of SAELens 6.54 for mwhanna's (``mwhanna_transcoder_...``).
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_lens_ext._types import Kind
from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.assemble import assembled, transposed
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.origin import number_in, origin
from sae_lens_ext.formats.reading import check_names, read_safetensors

FILE = re.compile(r"layer_\d+\.safetensors")
"""The name of a transcoder's file."""

CROSS_LAYER_FILE = re.compile(r"W_(?:enc|dec)_\d+\.safetensors")
"""The name of a part of a cross-layer transcoder."""

CONFIG_FILE = "config.yaml"

_NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
_THRESHOLD = "activation_function.threshold"
_ACTIVATIONS = ("relu", "jump_relu", "jumprelu")
_OF_ACTIVATION = ("activation", "activation_function", "act_fn")
_OF_K = ("k", "topk", "top_k")
# The sets of mwhanna for Qwen3, some of which have no config.
_QWEN3 = re.compile(r"mwhanna/qwen3-([\d.]+b)-transcoders")


def read_circuit_tracer(path: Path) -> SAECheckpoint:
    """Read one file of a set: a transcoder with ReLU, JumpReLU or TopK.

    Circuit-tracer's TopK keeps negative activations among the k. It is read where it
    cannot meet any: where k features or more of zeros end the dictionary, as this
    package writes it. These are left out.

    Raises:
        FormatError: a damaged file, other tensors, or another activation.
        NonFinite: a tensor holds NaN or infinity.
    """
    config = _flat_yaml(path.parent / CONFIG_FILE)
    k = _checked_k(path.parent / CONFIG_FILE, config)

    tensors = read_safetensors(path)
    stated = [name for name in (_THRESHOLD, "W_skip") if name in tensors]
    check_names(path, tensors, (*_NAMES, *stated))

    weights = {name: tensors[name] for name in _NAMES}
    weights["W_enc"] = transposed(weights["W_enc"])
    if "W_skip" in tensors:
        weights["W_skip"] = transposed(tensors["W_skip"])
    kind: Kind = "relu"
    if _THRESHOLD in tensors:
        kind = "jumprelu"
        weights["threshold"] = tensors[_THRESHOLD]
        # Its JumpReLU has no ReLU.
        if bool((tensors[_THRESHOLD] < 0).any()):
            raise FormatError(
                f"{path}: {_THRESHOLD} has negative values, which let negative "
                "activations pass; no kind of SAE here does"
            )

    if k is not None:
        kind = "topk"
        weights = _without_zeros(path, weights, k)

    return assembled(
        path,
        kind=kind,
        tensors=weights,
        k=k,
        apply_b_dec_to_input=False,
        d_out=weights["b_dec"].numel(),
        metadata=_metadata(path, config),
    )


def refuse_cross_layer(folder: Path) -> None:
    """Say that a folder holds a cross-layer transcoder.

    Raises:
        FormatError: always.
    """
    raise FormatError(
        f"{folder} holds a cross-layer transcoder, which writes many layers; this "
        "reader knows transcoders of one layer"
    )


def _checked_k(path: Path, config: dict[str, str]) -> int | None:
    """The k of a config with TopK; None without one.

    Raises:
        FormatError: not a set of transcoders, or another activation.
    """
    kind = config.get("model_kind", "transcoder_set")
    if kind == "cross_layer_transcoder":
        refuse_cross_layer(path.parent)
    if kind != "transcoder_set":
        raise FormatError(
            f"{path}: model_kind is {kind!r}; this reader knows 'transcoder_set'"
        )
    if config.get("activation", "").lower() == "topk" and config.get("k", "").isdigit():
        return int(config["k"])

    for key in (*_OF_K, *_OF_ACTIVATION):
        if key in config and config[key].lower() not in _ACTIVATIONS:
            raise FormatError(
                f"{path} sets {key} to {config[key]!r}; this reader knows ReLU, "
                "JumpReLU, and TopK as 'activation: topk' with a number k"
            )
    return None


def _without_zeros(path: Path, weights: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Weights of a TopK without the features of zeros that stand in for its ReLU.

    Raises:
        FormatError: there are fewer than k.
    """
    b_enc = weights["b_enc"]
    is_used = weights["W_enc"].any(dim=0) | (b_enc != 0) | weights["W_dec"].any(dim=1)
    used = is_used.nonzero()
    n_features = int(used[-1]) + 1 if len(used) else 0
    n_zeros = len(b_enc) - n_features
    if not n_features:
        raise FormatError(
            f"{path} holds zeros alone: it stands in for a layer without a transcoder"
        )
    if not 1 <= k <= n_zeros:
        raise FormatError(
            f"{path} is for TopK with k={k}, of which circuit-tracer keeps negative "
            "activations too. No kind of SAE here does, unless the dictionary ends in "
            f"at least k features of zeros; it ends in {n_zeros}"
        )
    return {
        **weights,
        "W_enc": weights["W_enc"][:, :n_features],
        "b_enc": b_enc[:n_features],
        "W_dec": weights["W_dec"][:n_features],
    }


def _metadata(path: Path, config: dict[str, str]) -> dict[str, Any]:
    layer = number_in(r"layer_(\d+)\.safetensors", path.name)
    hook_in = config.get("feature_input_hook")
    hook_out = config.get("feature_output_hook")
    model_name = config.get("model_name")
    qwen3 = _QWEN3.search(origin(path))
    if qwen3:
        hook_in = hook_in or "mlp.hook_in"
        hook_out = hook_out or "hook_mlp_out"
        model_name = model_name or f"Qwen/Qwen3-{qwen3[1].upper()}"
    return {
        "trained_with": "circuit-tracer",
        "model_name": model_name,
        "hook_name": f"blocks.{layer}.{hook_in}" if hook_in else None,
        "hook_name_out": f"blocks.{layer}.{hook_out}" if hook_out else None,
    }


def _flat_yaml(path: Path) -> dict[str, str]:
    """The ``key: value`` lines at the top level of a YAML file; empty if there is none.

    All that is needed of these files is flat, and a parser of all of YAML would be
    another dependency, for untrusted files.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    config = {}
    for line in text.splitlines():
        key, colon, rest = line.partition(":")
        value = rest.partition(" #")[0].strip()
        if colon and value and key.isidentifier():
            config[key] = value.strip("\"'")
    return config
