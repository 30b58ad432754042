"""Llama Scope and Llama Scope R1: the folders of OpenMOSS' lm-saes, two generations.

=============  =============================================================
generation     files
=============  =============================================================
Llama Scope    ``hyperparams.json`` and ``checkpoints/final.safetensors``
R1             ``config.json`` and ``sae_weights.safetensors``
=============  =============================================================

Activations were scaled by sqrt(d_model) over their mean norm in a data set; the scale
is folded into the weights here, so that features are in units of the activations.

Source: arXiv:2410.20526; ``SparseAutoEncoder`` of OpenMOSS/Language-Model-SAEs; the
    loaders of SAELens 6.54 (``llama_scope_...``), whose numbers these are.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_lens_ext._types import Kind, TokenNorm
from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.assemble import assembled
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.folding import (
    filled_threshold,
    with_decoder_norms,
    with_scaled_activations,
)
from sae_lens_ext.formats.reading import (
    check_factor,
    check_flag,
    check_size,
    check_string,
    check_tensors,
    read_object,
    read_safetensors,
    refuse_non_finite,
)

HYPERPARAMS_FILE = "hyperparams.json"
FINAL_FILE = "checkpoints/final.safetensors"
R1_CONFIG_FILE = "config.json"
R1_WEIGHTS_FILE = "sae_weights.safetensors"

_NORM = "dataset_average_activation_norm"
_KINDS: dict[str, Kind] = {"jumprelu": "jumprelu", "topk": "topk", "relu": "relu"}


def read_llama_scope(folder: Path) -> SAECheckpoint:
    """Read a folder of Llama Scope.

    Raises:
        FormatError: a missing file or key, an option that this reader does not know, or
            tensors that do not fit.
        NonFinite: a tensor holds NaN or infinity.
    """
    path = folder / HYPERPARAMS_FILE
    config = read_object(path)
    d_sae = check_size(path, "d_sae", config.get("d_sae"))
    tensors = read_safetensors(folder / FINAL_FILE)
    config = {"model_name": "meta-llama/Llama-3.1-8B", **config}
    return _checkpoint(path, folder / FINAL_FILE, config, tensors, d_sae)


def read_llama_scope_r1(folder: Path) -> SAECheckpoint:
    """Read a folder of Llama Scope R1; see ``read_llama_scope``."""
    path = folder / R1_CONFIG_FILE
    config = read_object(path)
    factor = check_size(path, "expansion_factor", config.get("expansion_factor"))
    d_sae = factor * check_size(path, "d_model", config.get("d_model"))

    tensors = read_safetensors(folder / R1_WEIGHTS_FILE)
    # The mean norms are tensors here, named by the site.
    norms = {
        side: tensors.pop(f"{_NORM}.{config.get(f'hook_point_{side}')}", None)
        for side in ("in", "out")
    }
    if norms["out"] is None:
        norms["out"] = norms["in"]
    stated = {
        side: norm.double().item()
        for side, norm in norms.items()
        if norm is not None and norm.numel() == 1
    }
    model_name = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
    norms_of_config = config.get(_NORM) or stated
    config = {"model_name": model_name, **config, _NORM: norms_of_config}
    return _checkpoint(path, folder / R1_WEIGHTS_FILE, config, tensors, d_sae)


def _checkpoint(
    path: Path,
    weights_path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    d_sae: int,
) -> SAECheckpoint:
    d_model = check_size(path, "d_model", config.get("d_model"))
    activation = str(config.get("act_fn", "jumprelu")).lower()
    if activation not in _KINDS:
        raise FormatError(
            f"{path}: act_fn is {config['act_fn']!r}; this reader knows "
            f"{', '.join(_KINDS)}"
        )
    hook_name = check_string(path, "hook_point_in", config.get("hook_point_in"))
    hook_name_out = config.get("hook_point_out", hook_name)
    is_transcoder = hook_name_out != hook_name
    pre_bias = _flag(path, config, "apply_decoder_bias_to_pre_encoder")
    if _flag(path, config, "use_glu_encoder"):
        raise FormatError(
            f"{path}: use_glu_encoder is true; this reader knows encoders without a "
            "gate: without it, every activation would be wrong"
        )

    weights = _weights(path, weights_path, config, tensors, [d_model, d_sae])
    # A threshold of JumpReLU is compared with the activation alone.
    if activation == "topk" and _flag(path, config, "sparsity_include_decoder_norm"):
        weights = with_decoder_norms(weights)
    scale_in, scale_out, token_norm = _scales(path, config, d_model)
    if pre_bias and scale_in != scale_out:
        raise FormatError(
            f"{path}: apply_decoder_bias_to_pre_encoder is true, and {_NORM} differs "
            "between in and out: in which units the bias is, is not defined"
        )
    weights = with_scaled_activations(weights, scale_in, scale_out)

    return assembled(
        weights_path,
        kind=_KINDS[activation],
        tensors=weights,
        k=config.get("top_k"),
        apply_b_dec_to_input=pre_bias,
        d_out=d_model if is_transcoder else None,
        token_norm=token_norm,
        metadata={
            "trained_with": "Llama Scope",
            "model_name": config["model_name"],
            "hook_name": hook_name,
            "hook_name_out": hook_name_out if is_transcoder else None,
        },
    )


def _weights(
    path: Path,
    weights_path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    sizes: list[int],
) -> dict[str, Tensor]:
    """The tensors in the names of ``SAECheckpoint``, before any scaling."""
    d_model, d_sae = sizes
    expected_shapes = {
        "encoder.weight": [d_sae, d_model],
        "encoder.bias": [d_sae],
        "decoder.weight": [d_model, d_sae],
        "decoder.bias": [d_model],
    }
    if "log_jumprelu_threshold" in tensors:
        expected_shapes["log_jumprelu_threshold"] = [d_sae]
    check_tensors(weights_path, tensors, expected_shapes, by=path.name)
    refuse_non_finite(tensors, str(weights_path))

    weights = {
        "W_enc": tensors["encoder.weight"].T,
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["decoder.weight"].T,
        "b_dec": tensors["decoder.bias"],
    }
    if str(config.get("act_fn", "jumprelu")).lower() != "jumprelu":
        return weights
    if "log_jumprelu_threshold" in tensors:
        return {**weights, "threshold": tensors["log_jumprelu_threshold"].exp()}

    # One threshold, in units of the activations before they were scaled.
    scale_in, _, _ = _scales(path, config, d_model)
    threshold = config.get("jump_relu_threshold")
    if threshold != 0:
        threshold = check_factor(path, "jump_relu_threshold", threshold)
    filled = filled_threshold(threshold * scale_in, d_sae, weights["b_enc"].dtype)
    return {**weights, "threshold": filled}


def _scales(
    path: Path, config: Mapping[str, Any], d_model: int
) -> tuple[float, float, TokenNorm]:
    """What inputs are multiplied and outputs divided by, and the norm per token."""
    mode = config.get("norm_activation", "dataset-wise")
    if mode == "inference":
        return 1.0, 1.0, "none"
    if mode == "token-wise":
        return 1.0, 1.0, "unit_norm"
    if mode != "dataset-wise":
        raise FormatError(
            f"{path}: norm_activation is {mode!r}; this reader knows 'dataset-wise', "
            "'token-wise' and 'inference': without it, every activation would be wrong"
        )

    norms = config.get(_NORM)
    if not isinstance(norms, Mapping) or "in" not in norms:
        raise FormatError(
            f"{path}: {_NORM}.in is missing: without it, every activation would be "
            "wrong"
        )
    norm_in = check_factor(path, f"{_NORM}.in", norms["in"])
    norm_out = check_factor(path, f"{_NORM}.out", norms.get("out", norm_in))
    return math.sqrt(d_model) / norm_in, math.sqrt(d_model) / norm_out, "none"


def _flag(path: Path, config: Mapping[str, Any], key: str) -> bool:
    return check_flag(path, key, config.get(key, False))
