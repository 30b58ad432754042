"""Reading the files of a folder.

Every error names the file and says what is wrong with it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_lens_ext.errors import FormatError, NonFinite

_FLOATING_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_NO_SAE_FOLDER = (
    "it is not an SAE folder; if one of its folders is, choose it with subfolder="
)


def read_object(path: Path, lacking: str = _NO_SAE_FOLDER) -> dict[str, Any]:
    """The JSON object in a file.

    ``lacking`` completes the error for a file that does not exist: "... holds no
    cfg.json, so ``lacking``".

    Raises:
        FormatError: no such file, or one that does not hold a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(f"{path.parent} holds no {path.name}, so {lacking}") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    # A file of many brackets exceeds the depth of recursion.
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON (was it cut short?): {error}") from error

    if not isinstance(value, dict):
        raise FormatError(
            f"{path} must hold one JSON object; it holds a value of type "
            f"{type(value).__name__}"
        )
    return value


def check_size(path: Path, key: str, value: object) -> None:
    """Check that the value of a key in a file is a positive integer.

    Raises:
        FormatError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise FormatError(f"{path}: {key} must be a positive integer; it is {value!r}")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file.

    Raises:
        FormatError: no such file, or a damaged one.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise FormatError(f"{path.parent} holds no {path.name}") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    except SafetensorError as error:
        raise FormatError(
            f"{path} is not a whole safetensors file (was it cut short?): {error}"
        ) from error


def read_tensors(
    path: Path, expected_shapes: Mapping[str, list[int]]
) -> dict[str, Tensor]:
    """The tensors of a safetensors file that must hold exactly these.

    Raises:
        FormatError: other names or shapes, or not all of one floating-point dtype.
        NonFinite: a tensor holds NaN or infinity.
    """
    tensors = read_safetensors(path)
    if set(tensors) != set(expected_shapes):
        raise FormatError(
            f"{path} must hold exactly {', '.join(sorted(expected_shapes))}; it holds "
            f"{', '.join(sorted(tensors)) or 'nothing'}"
        )
    for name, expected_shape in expected_shapes.items():
        shape = list(tensors[name].shape)
        if shape != expected_shape:
            raise FormatError(
                f"{path}: {name} must be {expected_shape}, by cfg.json; it is {shape}"
            )

    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1 or not dtypes.issubset(_FLOATING_DTYPES):
        listing = ", ".join(
            f"{name} {tensor.dtype}" for name, tensor in sorted(tensors.items())
        )
        raise FormatError(
            f"{path} must hold tensors of one floating-point dtype; it holds {listing}"
        )
    refuse_non_finite(tensors, str(path))
    return tensors


def refuse_non_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that no tensor holds NaN or infinity; ``where`` says whose they are.

    Raises:
        NonFinite: one does. The message names it.
    """
    for name, tensor in tensors.items():
        n_bad = int((~torch.isfinite(tensor)).sum())
        if n_bad:
            raise NonFinite(
                f"{n_bad} of {tensor.numel()} numbers in {name} of {where} are NaN or "
                "infinite; train it again or restore it"
            )
