"""From a checkpoint to a folder that SAELens 6 computes the same with."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.folder import replacing_files
from sae_lens_ext.formats.reading import refuse_non_finite
from sae_lens_ext.formats.saelens.convert import FORMAT_VERSION
from sae_lens_ext.formats.saelens.read import (
    CONFIG_FILE,
    NORMALIZATION_FILE,
    OUR_FILES,
    WEIGHTS_FILE,
)
from sae_lens_ext.formats.writing import writable_folder, write_tensors

# The SAELens release whose reader this layout was checked against; readers look only
# for a major version of at least 6.
_SAELENS_VERSION = "6.54.12"
_ARCHITECTURES = {
    "relu": "standard",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",
}
# SAELens has no transcoder with a k, and refuses a name that it does not know.
_TRANSCODERS = {
    "relu": "transcoder",
    "topk": "topk_transcoder",
    "jumprelu": "jumprelu_transcoder",
    "batchtopk": "jumprelu_transcoder",
}
_NORMALIZATIONS = {
    "none": "none",
    "layer_norm": "layer_norm",
    "unit_norm": "constant_norm_rescale",
}


def write_saelens(folder: str | Path, checkpoint: SAECheckpoint) -> Path:
    """Write ``checkpoint`` so that SAELens 6 and this package can read it.

    All files are replaced as one. A transcoder of kind ``topk`` gets an architecture
    that SAELens does not have and refuses.

    Raises:
        NonFinite: a tensor holds NaN or infinity. Nothing is written.
        InvalidArgument: not a folder, one that cannot be written to, metadata that is
            not JSON, or a transcoder that normalises tokens. Nothing is written.
    """
    # Everything that can be rejected is, before the first write.
    refuse_non_finite(checkpoint.tensors, "the SAE to save")
    folder = writable_folder(folder)
    description = _description(checkpoint)
    weights = dict(checkpoint.tensors)
    if "W_skip" in weights:
        weights["W_skip"] = weights["W_skip"].T

    try:
        with replacing_files(folder, OUR_FILES) as temporary:
            if checkpoint.normalization:
                write_tensors(temporary / NORMALIZATION_FILE, checkpoint.normalization)
            write_tensors(temporary / WEIGHTS_FILE, weights)
            (temporary / CONFIG_FILE).write_text(description, encoding="utf-8")
    # A ValueError comes of a name with a NUL.
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidArgument(
            f"{str(folder)!r} cannot be written to, and is as it was: {error}"
        ) from error
    return folder


def saelens_extension(levels: Iterable[int]) -> dict[str, Any]:
    """What this package adds to the metadata of an SAE in SAELens' layout.

    Args:
        levels: the values of k that it was trained at.
    """
    return {"format_version": FORMAT_VERSION, "levels": list(levels)}


def _description(checkpoint: SAECheckpoint) -> str:
    """The text of cfg.json."""
    extension = saelens_extension(checkpoint.levels)
    if checkpoint.kind == "batchtopk":
        extension["kind"] = "batchtopk"
    metadata = dict(checkpoint.metadata)
    # SAELens reshapes at hook_z only.
    is_at_z = str(metadata.get("hook_name", "_z")).endswith("_z")
    reshape = "none"
    if metadata.pop("reshape_activations", "none") == "hook_z" and is_at_z:
        reshape = "hook_z"

    config = {
        "architecture": _architecture(checkpoint),
        "d_in": checkpoint.d_model,
        "d_sae": checkpoint.d_sae,
        **_options_of_kind(checkpoint),
        # Matrices may be stored in a narrower one.
        "dtype": str(checkpoint.tensors["b_dec"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": checkpoint.apply_b_dec_to_input,
        "normalize_activations": _NORMALIZATIONS[checkpoint.token_norm],
        "reshape_activations": reshape,
        "metadata": {
            **metadata,
            "sae_lens_version": _SAELENS_VERSION,
            "sae_lens_training_version": None,
            "sae_lens_ext": extension,
        },
    }
    try:
        return json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"the SAE's metadata must be JSON values to be saved ({error})"
        ) from error


def _architecture(checkpoint: SAECheckpoint) -> str:
    if checkpoint.d_out is None:
        return _ARCHITECTURES[checkpoint.kind]
    if checkpoint.token_norm != "none" or checkpoint.apply_b_dec_to_input:
        raise InvalidArgument(
            "a transcoder to be saved must have token_norm 'none' and "
            f"apply_b_dec_to_input False; got {checkpoint.token_norm!r} and "
            f"{checkpoint.apply_b_dec_to_input}"
        )
    architecture = _TRANSCODERS[checkpoint.kind]
    if "W_skip" in checkpoint.tensors:
        architecture = architecture.replace("transcoder", "skip_transcoder")
    return architecture


def _options_of_kind(checkpoint: SAECheckpoint) -> dict[str, object]:
    options: dict[str, object] = {}
    if checkpoint.kind == "topk":
        options["k"] = checkpoint.k
        options["rescale_acts_by_decoder_norm"] = False
    if checkpoint.d_out is not None:
        options["d_out"] = checkpoint.d_out
    return options
