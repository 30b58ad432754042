"""From a folder of SAELens to a checkpoint."""

from collections.abc import Mapping
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.folder import current_file
from sae_lens_ext.formats.reading import (
    read_object,
    read_safetensors,
    read_tensors,
)
from sae_lens_ext.formats.saelens.convert import (
    ActivationScaling,
    checkpoint_from_saelens,
)

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
NORMALIZATION_FILE = "normalization.safetensors"
OUR_FILES = (WEIGHTS_FILE, NORMALIZATION_FILE, CONFIG_FILE)
"""The files that this package writes, the description last."""

SCALER_FILE = "activation_scaler.json"
WHITENING_FILE = "activation_whitening.safetensors"


def read_saelens(folder: Path) -> SAECheckpoint:
    """Read a folder that SAELens or this package wrote.

    Raises:
        FormatError: a missing file or key; a tensor that is missing, extra or
            misshapen; a file that was cut; or an architecture, option or version that
            this reader does not know.
        NonFinite: a tensor holds NaN or infinity.
    """
    config_file = current_file(folder, CONFIG_FILE)
    config = read_object(config_file)
    weights = read_safetensors(current_file(folder, WEIGHTS_FILE))
    tensors = _in_widest_dtype(weights)
    return checkpoint_from_saelens(
        config,
        tensors,
        str(folder / CONFIG_FILE),
        weights_where=str(folder / WEIGHTS_FILE),
        scaling=_read_scaling(folder),
        normalization=_read_normalization(folder, tensors),
    )


def _in_widest_dtype(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the widest dtype among them; matrices may be stored in a narrow one.

    Integers and numbers of 8 bits stay as they are, to be refused.
    """
    floating = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.itemsize > 1
    }
    dtypes = {tensor.dtype for tensor in floating.values()}
    if len(dtypes) < 2:
        return dict(tensors)
    widest = reduce(torch.promote_types, dtypes)
    cast = {name: tensor.to(widest) for name, tensor in floating.items()}
    return {**tensors, **cast}


def _read_scaling(folder: Path) -> ActivationScaling:
    """What SAELens writes beside a checkpoint of its training, if anything."""
    factor = None
    whitening = None
    if (folder / SCALER_FILE).is_file():
        factor = read_object(folder / SCALER_FILE).get("scaling_factor")
    if (folder / WHITENING_FILE).is_file():
        whitening = read_safetensors(folder / WHITENING_FILE)
    return ActivationScaling(factor=factor, whitening=whitening)


def _read_normalization(
    folder: Path, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The mean and scale of the activations; empty if the SAE has none."""
    path = current_file(folder, NORMALIZATION_FILE)
    # Without an encoder the weights are refused, with a better message.
    if not path.is_file() or "W_enc" not in weights:
        return {}

    expected_shapes = {
        "activation_mean": list(weights["W_enc"].shape[:1]),
        "activation_scale": [],
    }
    constants = read_tensors(path, expected_shapes)
    scale = constants["activation_scale"]
    if not scale > 0:
        raise FormatError(f"{path}: activation_scale must be above 0; it is {scale}")
    return constants
