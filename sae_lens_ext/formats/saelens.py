"""SAELens version 6 folders of architecture ``topk``: ``cfg.json`` and ``sae_weights.safetensors``.

SAELens loads the four tensors strictly, so what is ours goes elsewhere: facts into ``metadata.sae_lens_ext`` of cfg.json, and
the activation's mean and scale, which the tensors already contain, into ``normalization.safetensors`` beside them.
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

# The SAELens release whose reader this layout was checked against; readers look only for a major version of at least 6.
_SAELENS_VERSION = "6.54.12"
# Raised when a reader of the old layout would misunderstand the new one.
_OUR_VERSION = 1
_REQUIRED_KEYS = ("architecture", "d_in", "d_sae", "k", "metadata")


def write_saelens(folder: str | Path, checkpoint: SAECheckpoint) -> Path:
    """Write ``checkpoint`` so that SAELens 6 and this package can read it.

    Every file is replaced in one step, the weights before the description of them.

    Raises:
        NonFinite: a tensor holds NaN or infinity. Nothing is written.
    """
    refuse_non_finite(checkpoint.tensors, "the SAE to save")
    if not isinstance(folder, str | Path):
        raise InvalidArgument(f"give the folder to save to as a path; got {folder!r}")
    folder = Path(folder).expanduser()
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
                "format_version": _OUR_VERSION,
                "levels": list(checkpoint.levels),
            },
        },
    }
    try:
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"the SAE's metadata must be JSON values to be saved ({error})"
        ) from error
    in_the_way = next(
        (
            part
            for part in (folder, *folder.parents)
            if part.exists() and not part.is_dir()
        ),
        None,
    )
    if in_the_way is not None:
        raise InvalidArgument(
            f"{in_the_way} is a file; give a folder to save an SAE to"
        )
    for name, tensors in (
        (NORMALIZATION_FILE, checkpoint.normalization),
        (WEIGHTS_FILE, checkpoint.tensors),
    ):
        if tensors:
            with replacing(folder / name) as temporary:
                save_file(
                    {
                        key: tensor.detach().cpu().contiguous()
                        for key, tensor in tensors.items()
                    },
                    temporary,
                )
        else:
            (folder / name).unlink(missing_ok=True)
    with replacing(folder / CONFIG_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder


def read_saelens(folder: Path) -> SAECheckpoint:
    """Read a folder that SAELens 6 or this package wrote.

    Raises:
        FormatError: a missing file or key, a tensor that is missing, extra or misshapen, a file that was cut, another
            architecture, or a version this reader does not know.
        NonFinite: a tensor holds NaN or infinity.
    """
    config = _read_config(folder / CONFIG_FILE)
    metadata = dict(config["metadata"])
    ours = metadata.pop("sae_lens_ext", {})
    if not isinstance(ours, dict):
        raise FormatError(
            f"{folder / CONFIG_FILE}: metadata.sae_lens_ext must be an object; it is {ours!r}"
        )
    for name in ("sae_lens_version", "sae_lens_training_version"):
        metadata.pop(name, None)
    if ours and (found := ours.get("format_version")) != _OUR_VERSION:
        raise FormatError(
            f"{folder / CONFIG_FILE} has format_version {found!r}; this release reads {_OUR_VERSION}: upgrade sae-lens-ext"
        )
    d_model, d_sae, k = config["d_in"], config["d_sae"], config["k"]
    expected = {
        "W_enc": [d_model, d_sae],
        "b_enc": [d_sae],
        "W_dec": [d_sae, d_model],
        "b_dec": [d_model],
    }
    tensors = read_tensors(folder / WEIGHTS_FILE, expected)
    if config.get("rescale_acts_by_decoder_norm", False):
        tensors = _with_decoder_norm_folded(tensors)
    normalization = {}
    if (folder / NORMALIZATION_FILE).exists():
        normalization = read_tensors(
            folder / NORMALIZATION_FILE,
            {"activation_mean": [d_model], "activation_scale": []},
        )
        if not normalization["activation_scale"] > 0:
            raise FormatError(
                f"{folder / NORMALIZATION_FILE}: activation_scale must be above 0; it is {normalization['activation_scale']}"
            )
    return SAECheckpoint(
        d_model=d_model,
        d_sae=d_sae,
        k=k,
        levels=ours.get("levels", ()),
        apply_b_dec_to_input=config.get("apply_b_dec_to_input", True),
        tensors=tensors,
        normalization=normalization,
        metadata=metadata,
    )


def _read_config(path: Path) -> dict[str, Any]:
    config = read_object(path)
    metadata = config.get("metadata")
    version = (
        str(metadata.get("sae_lens_version", "")) if isinstance(metadata, dict) else ""
    )
    if version.split(".")[0] != "6":
        raise FormatError(
            f"{path} has sae_lens_version {version or 'missing'!r} in its metadata; this reader knows version 6: "
            "load the SAE with SAELens 6 and save it again"
        )
    if config.get("architecture") != "topk":
        raise FormatError(
            f"{path} describes architecture {config.get('architecture')!r}; this reader knows 'topk'"
        )
    missing = [key for key in _REQUIRED_KEYS if key not in config]
    if missing:
        raise FormatError(f"{path} lacks {', '.join(missing)}")
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
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key, "none") != "none":
            raise FormatError(
                f"{path}: {key} is {config[key]!r}; this reader knows 'none': fold it with SAELens and save again"
            )
    return config


def _with_decoder_norm_folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function with ``rescale_acts_by_decoder_norm`` off: selection by activation times norm needs unit-norm rows."""
    norms = tensors["W_dec"].norm(dim=1)
    # A row of zeros is a feature that does nothing; dividing by its norm would make it one that poisons everything.
    norms = torch.where(norms > 0, norms, 1)
    return {
        **tensors,
        "W_enc": tensors["W_enc"] * norms,
        "b_enc": tensors["b_enc"] * norms,
        "W_dec": tensors["W_dec"] / norms[:, None],
    }
