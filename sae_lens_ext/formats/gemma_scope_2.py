"""Gemma Scope 2, for Gemma 3: ``params.safetensors``, mostly with a ``config.json``.

Where there is no config, the names of the folders say the same, as in
``google/gemma-scope-2-270m-pt/transcoder_all/layer_5_width_16k_l0_small_affine``.

Source: the loaders of SAELens 6.54 (``gemma_3_...``).
"""

import re
from pathlib import Path
from typing import Any

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.assemble import assembled
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.origin import number_in, origin
from sae_lens_ext.formats.reading import (
    check_flag,
    check_names,
    read_object,
    read_safetensors,
)

PARAMS_FILE = "params.safetensors"
CONFIG_FILE = "config.json"

_REPO = re.compile(r"gemma-scope-2-([\w.]+)-(pt|it)(?![\w])")
_PARTS = re.compile(r"(?:^|/)(resid_post|attn_out|mlp_out|transcoder|crosscoder|clt)")
_NAMES = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
_SKIP = "affine_skip_connection"
_MANY_LAYERS = {
    "crosscoder": "a crosscoder, which reads and writes many layers",
    "clt": "a cross-layer transcoder, which writes many layers",
}
# TransformerLens' name, then the path of the module in the Hugging Face model.
_SITES = {
    "resid_post": ("hook_resid_post", "output"),
    "attn_out": ("attn.hook_z", "self_attn.o_proj.input"),
    "mlp_out": ("hook_mlp_out", "post_feedforward_layernorm.output"),
    # What the MLP reads: behind its norm and the gain of that.
    "transcoder": ("mlp.hook_in", "pre_feedforward_layernorm.output"),
}


def read_gemma_scope_2(path: Path) -> SAECheckpoint:
    """Read a ``params.safetensors`` of Gemma Scope 2: a JumpReLU SAE or transcoder.

    Raises:
        FormatError: a damaged file, other tensors, an unknown architecture, or a
            crosscoder or cross-layer transcoder.
        NonFinite: a tensor holds NaN or infinity.
    """
    names = origin(path)
    config = {}
    if (path.parent / CONFIG_FILE).is_file():
        config = read_object(path.parent / CONFIG_FILE)
    part = _part(path, names, config)

    tensors = read_safetensors(path)
    if any(tensor.ndim > 2 for tensor in tensors.values()):
        raise FormatError(
            f"{path} holds {_MANY_LAYERS['clt']}; this reader knows SAEs and "
            "transcoders of one layer"
        )
    has_skip = _has_skip(path, names, config, part, _SKIP in tensors)
    check_names(path, tensors, (*_NAMES, _SKIP) if has_skip else _NAMES)

    weights = {name.replace("w_", "W_"): tensors[name] for name in _NAMES}
    if has_skip:
        # Stored as it is used, x @ W_skip, other than in SAELens.
        weights["W_skip"] = tensors[_SKIP]
    is_transcoder = part == "transcoder"

    return assembled(
        path,
        kind="jumprelu",
        tensors=weights,
        apply_b_dec_to_input=False,
        d_out=weights["b_dec"].numel() if is_transcoder else None,
        metadata=_metadata(names, config, part),
    )


def many_layers(names: str) -> str | None:
    """What of many layers the names that lead to a file are of; None if of one.

    >>> many_layers("google/gemma-scope-2-1b-pt/clt/width_262k/params_layer_0")
    'a cross-layer transcoder, which writes many layers'
    """
    parts = [part for part in _PARTS.findall(names) if part in _MANY_LAYERS]
    return _MANY_LAYERS[parts[0]] if parts and _REPO.search(names) else None


def _part(path: Path, names: str, config: dict[str, Any]) -> str | None:
    """Which family it belongs to: a key of ``_SITES``; None if nothing says so.

    Raises:
        FormatError: one of many layers, or another architecture.
    """
    architecture = config.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        raise FormatError(
            f"{path.parent / CONFIG_FILE} describes architecture {architecture!r}; "
            "this reader knows 'jump_relu'"
        )
    parts = _PARTS.findall(names)
    part = parts[-1] if parts else None
    stated = config.get("type")
    if stated in ("transcoder", *_MANY_LAYERS):
        part = stated
    if part in _MANY_LAYERS:
        raise FormatError(
            f"{path} holds {_MANY_LAYERS[part]}; this reader knows SAEs and "
            "transcoders of one layer"
        )
    if part is None:
        point = str(config.get("hf_hook_point_in", ""))
        fitting = [name for name, (_, end) in _SITES.items() if point.endswith(end)]
        # The path of a whole block ends like many others.
        part = fitting[-1] if fitting else None
    return part


def _has_skip(
    path: Path, names: str, config: dict[str, Any], part: str | None, is_there: bool
) -> bool:
    """Whether there is an affine part; the config, the name and the file must agree."""
    is_stated = "_affine" in names and part == "transcoder"
    if "affine_connection" in config:
        is_stated = check_flag(
            path.parent / CONFIG_FILE, "affine_connection", config["affine_connection"]
        )
    if is_stated and not is_there:
        raise FormatError(
            f"{path} should hold {_SKIP}, by its config or name, and does not: without "
            "it, every output would be wrong"
        )
    return is_there


def _metadata(names: str, config: dict[str, Any], part: str | None) -> dict[str, Any]:
    # Not trained on BOS, as Gemma Scope.
    metadata: dict[str, Any] = {
        "trained_with": "Gemma Scope 2",
        "exclude_special_tokens": True,
        "prepend_bos": True,
        "average_l0": config.get("l0"),
        "model_name": _model_name(names, config),
        "hf_hook_name": config.get("hf_hook_point_in"),
    }
    layer = number_in(r"layers?[._](\d+)", names)
    if layer is None:
        layer = number_in(r"layers\.(\d+)", str(config.get("hf_hook_point_in")))
    if part is None or layer is None:
        return metadata

    point, module = _SITES[part]
    metadata["hook_name"] = f"blocks.{layer}.{point}"
    if metadata["hf_hook_name"] is None:
        metadata["hf_hook_name"] = f"model.layers.{layer}.{module}"
    if part == "attn_out":
        metadata["reshape_activations"] = "hook_z"
    if part == "transcoder":
        point, module = _SITES["mlp_out"]
        metadata["hook_name_out"] = f"blocks.{layer}.{point}"
        metadata["hf_hook_name_out"] = config.get(
            "hf_hook_point_out", f"model.layers.{layer}.{module}"
        )
        # SAELens calls it hook_mlp_in, which in TransformerLens is before the norm.
        metadata["sae_lens_hook_name"] = f"blocks.{layer}.hook_mlp_in"
    return metadata


def _model_name(names: str, config: dict[str, Any]) -> str | None:
    """The repository of the model; its names differ between configs."""
    name = config.get("model_name")
    if not isinstance(name, str):
        repo = _REPO.search(names)
        if repo is None:
            return None
        name = f"gemma-3-{repo[1]}-{repo[2]}"
    name = name.replace("-v3", "-3")
    # The one model whose repository has no suffix.
    if "270m" in name:
        name = name.replace("-pt", "")
    return name if "/" in name else f"google/{name}"
