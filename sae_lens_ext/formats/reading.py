"""Reading the files of a folder, with errors that name the file and say what is wrong with it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_lens_ext.errors import FormatError, NonFinite


def read_object(
    path: Path,
    lacking: str = "it is not an SAE folder; if one of its folders is, choose it with subfolder=",
) -> dict[str, Any]:
    """The one JSON object in a file; ``lacking`` says what follows if there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(f"{path.parent} holds no {path.name}, so {lacking}") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON (was it cut short?): {error}") from error
    if not isinstance(found, dict):
        raise FormatError(
            f"{path} must hold one JSON object; it holds a {type(found).__name__}"
        )
    return found


def check_size(path: Path, key: str, value: object) -> None:
    """Refuse a size or a k that is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise FormatError(
            f"{path}: {key} must be a whole number of at least 1; it is {value!r}"
        )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file."""
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


def read_tensors(path: Path, expected: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must be exactly these, in one floating point type, and finite."""
    tensors = read_safetensors(path)
    if set(tensors) != set(expected):
        raise FormatError(
            f"{path} must hold exactly {', '.join(sorted(expected))}; it holds {', '.join(sorted(tensors)) or 'nothing'}"
        )
    for name, shape in expected.items():
        if list(tensors[name].shape) != shape:
            raise FormatError(
                f"{path}: {name} must be {shape}, by cfg.json; it is {list(tensors[name].shape)}"
            )
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1 or not dtypes <= {
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
    }:
        found = ", ".join(
            f"{name} {tensor.dtype}" for name, tensor in sorted(tensors.items())
        )
        raise FormatError(
            f"{path} must hold floating point numbers of one kind; it holds {found}"
        )
    refuse_non_finite(tensors, str(path))
    return tensors


def refuse_non_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinity, naming the tensor."""
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise NonFinite(
                f"{bad} of {tensor.numel()} numbers in {name} of {where} are NaN or infinite; train it again or restore it"
            )
