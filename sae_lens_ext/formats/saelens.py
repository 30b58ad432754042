"""SAELens version 6 folders of architecture ``topk``.

They hold ``cfg.json`` and ``sae_weights.safetensors``. SAELens loads the four tensors
strictly, so anything beyond its format goes elsewhere: facts into
``metadata.sae_lens_ext`` of cfg.json; and the mean and scale of the activations, which
the tensors already contain, into ``normalization.safetensors`` beside them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.reading import (
    check_size,
    read_object,
    read_tensors,
    refuse_non_finite,
)

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
NORMALIZATION_FILE = "normalization.safetensors"

# The SAELens release whose reader this layout was checked against; readers look only
# for a major version of at least 6.
_SAELENS_VERSION = "6.54.12"
# To be raised when a reader of the old layout would misunderstand the new one.
_FORMAT_VERSION = 1
_REQUIRED_KEYS = ("architecture", "d_in", "d_sae", "k", "metadata")


def write_saelens(folder: str | Path, checkpoint: SAECheckpoint) -> Path:
    """Write ``checkpoint`` so that SAELens 6 and this package can read it.

    Every file is replaced in one step, the weights before the description of them.

    Raises:
        NonFinite: a tensor holds NaN or infinity. Nothing is written.
        InvalidArgument: not a folder, or metadata that is not JSON. Nothing is written.
    """
    # Everything that can be rejected is, before the first write.
    refuse_non_finite(checkpoint.tensors, "the SAE to save")
    folder = _writable_folder(folder)
    description = _description(checkpoint)

    _write_tensors(folder / NORMALIZATION_FILE, checkpoint.normalization)
    _write_tensors(folder / WEIGHTS_FILE, checkpoint.tensors)
    with replacing(folder / CONFIG_FILE) as temporary:
        temporary.write_text(description, encoding="utf-8")
    return folder


def _writable_folder(folder: str | Path) -> Path:
    """A path at which a folder exists or can be made."""
    if not isinstance(folder, str | Path):
        raise InvalidArgument(f"give the folder to save to as a path; got {folder!r}")
    folder = Path(folder).expanduser()
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise InvalidArgument(f"{path} is a file; give a folder to save an SAE to")
    return folder


def _description(checkpoint: SAECheckpoint) -> str:
    """The text of cfg.json."""
    config = {
        "architecture": "topk",
        "d_in": checkpoint.d_model,
        "d_sae": checkpoint.d_sae,
        "k": checkpoint.k,
        "dtype": str(checkpoint.tensors["W_enc"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": checkpoint.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {
            **checkpoint.metadata,
            "sae_lens_version": _SAELENS_VERSION,
            "sae_lens_training_version": None,
            "sae_lens_ext": {
                "format_version": _FORMAT_VERSION,
                "levels": list(checkpoint.levels),
            },
        },
    }
    try:
        return json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"the SAE's metadata must be JSON values to be saved ({error})"
        ) from error


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file of tensors; if there are none, remove that of an earlier save."""
    if not tensors:
        path.unlink(missing_ok=True)
        return
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def read_saelens(folder: Path) -> SAECheckpoint:
    """Read a folder that SAELens 6 or this package wrote.

    Raises:
        FormatError: a missing file or key; a tensor that is missing, extra or
            misshapen; a file that was cut; another architecture; or a version that this
            reader does not know.
        NonFinite: a tensor holds NaN or infinity.
    """
    config_file = folder / CONFIG_FILE
    config = _read_config(config_file)
    d_model = config["d_in"]
    d_sae = config["d_sae"]

    metadata = dict(config["metadata"])
    extension = _checked_extension(config_file, metadata.pop("sae_lens_ext", {}))
    for name in ("sae_lens_version", "sae_lens_training_version"):
        metadata.pop(name, None)

    expected_shapes = {
        "W_enc": [d_model, d_sae],
        "b_enc": [d_sae],
        "W_dec": [d_sae, d_model],
        "b_dec": [d_model],
    }
    tensors = read_tensors(folder / WEIGHTS_FILE, expected_shapes)
    if config.get("rescale_acts_by_decoder_norm", False):
        tensors = _with_decoder_norm_folded(tensors)

    return SAECheckpoint(
        d_model=d_model,
        d_sae=d_sae,
        k=config["k"],
        levels=extension.get("levels", ()),
        apply_b_dec_to_input=config.get("apply_b_dec_to_input", True),
        tensors=tensors,
        normalization=_read_normalization(folder / NORMALIZATION_FILE, d_model),
        metadata=metadata,
    )


def _read_config(path: Path) -> dict[str, Any]:
    """The object in cfg.json, once it is known to describe an SAE that can be read."""
    config = read_object(path)
    metadata = config.get("metadata")
    version = ""
    if isinstance(metadata, dict):
        version = str(metadata.get("sae_lens_version", ""))
    if version.split(".")[0] != "6":
        raise FormatError(
            f"{path} has sae_lens_version {version or 'missing'!r} in its metadata; "
            "this reader knows version 6: load the SAE with SAELens 6 and save it again"
        )
    if config.get("architecture") != "topk":
        raise FormatError(
            f"{path} describes architecture {config.get('architecture')!r}; this "
            "reader knows 'topk'"
        )
    missing = [key for key in _REQUIRED_KEYS if key not in config]
    if missing:
        raise FormatError(f"{path} lacks {', '.join(missing)}")
    _check_values(path, config)
    return config


def _check_values(path: Path, config: Mapping[str, Any]) -> None:
    for key in ("d_in", "d_sae", "k"):
        check_size(path, key, config[key])
    if config["k"] > config["d_sae"]:
        raise FormatError(
            f"{path}: k={config['k']} is more than d_sae={config['d_sae']} features"
        )
    for key in ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm"):
        if not isinstance(config.get(key, False), bool):
            raise FormatError(
                f"{path}: {key} must be true or false; it is {config[key]!r}"
            )
    # These change what the SAE computes, so they must not be ignored.
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key, "none") != "none":
            raise FormatError(
                f"{path}: {key} is {config[key]!r}; this reader knows 'none': fold it "
                "with SAELens and save again"
            )


def _checked_extension(path: Path, extension: Any) -> dict[str, Any]:
    """The facts that this package added to a description; empty for SAELens' own."""
    if not isinstance(extension, dict):
        raise FormatError(
            f"{path}: metadata.sae_lens_ext must be an object; it is {extension!r}"
        )
    version = extension.get("format_version")
    if extension and version != _FORMAT_VERSION:
        raise FormatError(
            f"{path} has format_version {version!r}; this release reads "
            f"{_FORMAT_VERSION}: upgrade sae-lens-ext"
        )
    return extension


def _read_normalization(path: Path, d_model: int) -> dict[str, Tensor]:
    """The mean and scale of the activations; empty if there is no such file."""
    if not path.exists():
        return {}
    expected_shapes = {"activation_mean": [d_model], "activation_scale": []}
    constants = read_tensors(path, expected_shapes)
    scale = constants["activation_scale"]
    if not scale > 0:
        raise FormatError(f"{path}: activation_scale must be above 0; it is {scale}")
    return constants


def _with_decoder_norm_folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the same function with ``rescale_acts_by_decoder_norm`` off.

    With it on, features are selected by activation times norm; with it off, the same
    selection needs decoder rows of unit norm.
    """
    norms = tensors["W_dec"].norm(dim=1)
    # A row of zeros is a feature that does nothing; dividing by its norm would make it
    # one that turns everything into NaN.
    norms = torch.where(norms > 0, norms, 1)
    return {
        **tensors,
        "W_enc": tensors["W_enc"] * norms,
        "b_enc": tensors["b_enc"] * norms,
        "W_dec": tensors["W_dec"] / norms[:, None],
    }
