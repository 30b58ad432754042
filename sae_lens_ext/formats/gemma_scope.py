"""Gemma Scope, for Gemma 2: one ``params.npz`` in a folder of its own.

The site, the model and the L0 are in the names only, as in
``google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82``.

Source: arXiv:2408.05147, and the loaders of SAELens 6.54 (``gemma_2_...``).
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.arrays import read_npz
from sae_lens_ext.formats.assemble import assembled
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.origin import number_in, origin
from sae_lens_ext.formats.reading import check_names

PARAMS_FILE = "params.npz"

_REPO = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)(?![\w])")
_POINTS = {
    "res": "hook_resid_post",
    # Behind the norm that follows the MLP, as TransformerLens has it.
    "mlp": "hook_mlp_out",
    "att": "attn.hook_z",
    # Normalised, without the gain of the norm, which was folded into the MLP.
    "transcoders": "ln2.hook_normalized",
}
_NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def read_gemma_scope(path: Path) -> SAECheckpoint:
    """Read a ``params.npz`` of Gemma Scope: a JumpReLU SAE or transcoder.

    Raises:
        FormatError: a damaged file, or other arrays.
        NonFinite: an array holds NaN or infinity.
    """
    names = origin(path)
    tensors = _in_our_names(path, read_npz(path))
    repo = _REPO.search(names)
    is_transcoder = repo is not None and repo[3] == "transcoders"

    if "/embedding/" in names:
        # Trained on embeddings before the model multiplies them by sqrt(d_model).
        factor = math.sqrt(max(tensors["b_dec"].numel(), 1))
        tensors["W_enc"] = tensors["W_enc"] / factor
        tensors["W_dec"] = tensors["W_dec"] * factor

    return assembled(
        path,
        kind="jumprelu",
        tensors=tensors,
        apply_b_dec_to_input=False,
        d_out=tensors["b_dec"].numel() if is_transcoder else None,
        metadata=_metadata(names, repo),
    )


def _in_our_names(path: Path, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays as tensors in the spelling of ``SAECheckpoint``."""
    spelling = {name.lower(): name for name in _NAMES}
    tensors = {spelling.get(key.lower(), key): array for key, array in arrays.items()}

    factors = tensors.pop("scaling_factor", None)
    if factors is not None and not bool((factors == 1).all()):
        raise FormatError(
            f"{path} holds a scaling_factor other than 1, and nothing says what it "
            "multiplies: without it, reconstructions could have another size"
        )
    check_names(path, tensors, _NAMES)
    return tensors


def _metadata(names: str, repo: re.Match[str] | None) -> dict[str, Any]:
    # The technical report: the SAEs were not trained on BOS.
    metadata: dict[str, Any] = {
        "trained_with": "Gemma Scope",
        "exclude_special_tokens": True,
        "prepend_bos": True,
        "average_l0": number_in(r"average_l0_(\d+)", names),
    }
    if repo is None:
        return metadata

    size, training, part = repo.groups()
    suffix = "-it" if training == "it" else ""
    metadata["model_name"] = f"gemma-2-{size}{suffix}"

    layer = number_in(r"layer_(\d+)", names)
    if "/embedding/" in names and part == "res":
        metadata["hook_name"] = "hook_embed"
    elif layer is not None:
        metadata["hook_name"] = f"blocks.{layer}.{_POINTS[part]}"
    if part == "att":
        metadata["reshape_activations"] = "hook_z"
    if part == "transcoders" and layer is not None:
        metadata["hook_name_out"] = f"blocks.{layer}.hook_mlp_out"
    return metadata
