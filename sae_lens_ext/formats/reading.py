"""Reading the files of a folder.

Every error names the file and says what is wrong with it.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_lens_ext._arguments import as_integer, as_real
from sae_lens_ext.errors import FormatError, NonFinite

_FLOATING_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Larger sizes than torch has; products of those below can still be written out.
_TOO_LARGE = 2**62
_NO_SAE_FOLDER = (
    "it is not an SAE folder; if one of its folders is, choose it with subfolder="
)


def read_object(
    path: Path, lacking: str = _NO_SAE_FOLDER, *, unique_keys: bool = False
) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        lacking: completes the error for a file that does not exist: "... holds no
            cfg.json, so ``lacking``".
        unique_keys: whether a key that comes twice is an error; else the last counts.

    Raises:
        FormatError: no such file, or one that does not hold a JSON object.
    """
    repeated: list[str] = []

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        repeated.extend(key for key, count in counts.items() if count > 1)
        return dict(pairs)

    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=as_dict if unique_keys else None)
    except FileNotFoundError:
        raise FormatError(f"{path.parent} holds no {path.name}, so {lacking}") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    # A file of many brackets exceeds the depth of recursion, and an integer of many
    # digits is a plain ValueError.
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON (was it cut short?): {error}") from error

    if repeated:
        raise FormatError(f"{path} has {repeated[0]!r} more than once; keep one")
    if not isinstance(value, dict):
        raise FormatError(
            f"{path} must hold one JSON object; it holds a value of type "
            f"{type(value).__name__}"
        )
    return value


def check_size(path: Path | str, key: str, value: object) -> int:
    """A positive integer from a file, checked.

    Raises:
        FormatError: the value is anything else.
    """
    number = None if isinstance(value, Tensor) else as_integer(value)
    if number is None or not 0 < number < _TOO_LARGE:
        raise FormatError(f"{path}: {key} must be a positive integer; it is {value!r}")
    return number


def check_factor(path: Path | str, key: str, value: object) -> float:
    """A positive finite number from a file, checked.

    Raises:
        FormatError: the value is anything else.
    """
    number = as_real(value)
    if not 0 < number < math.inf:
        raise FormatError(f"{path}: {key} must be a positive number; it is {value!r}")
    return number


def check_flag(path: Path | str, key: str, value: object) -> bool:
    """A boolean from a file, checked.

    Raises:
        FormatError: the value is anything else.
    """
    if not isinstance(value, bool):
        raise FormatError(f"{path}: {key} must be true or false; it is {value!r}")
    return value


def check_string(path: Path | str, key: str, value: object) -> str:
    """A string from a file, checked.

    Raises:
        FormatError: the value is anything else.
    """
    if not isinstance(value, str):
        raise FormatError(f"{path}: {key} must be a string; it is {value!r}")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file.

    Raises:
        FormatError: no such file, or a damaged one.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise FormatError(f"{path.parent} holds no {path.name}") from None
    # A file that is deleted while it is opened is a RuntimeError.
    except (OSError, RuntimeError) as error:
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
    check_tensors(path, tensors, expected_shapes, by="cfg.json")
    refuse_non_finite(tensors, str(path))
    return tensors


def check_tensors(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    expected_shapes: Mapping[str, list[int]],
    *,
    by: str,
    of_any_dtype: Sequence[str] = (),
) -> None:
    """Check that tensors have exactly these names and shapes, and one dtype.

    Args:
        path: where the tensors come from, for messages.
        tensors: the tensors by name.
        expected_shapes: the names and shapes that they must have.
        by: what says so, for messages, such as "cfg.json".
        of_any_dtype: names of tensors that may have another floating-point dtype than
            the rest.

    Raises:
        FormatError: they do not.
    """
    check_names(path, tensors, expected_shapes)
    for name, expected_shape in expected_shapes.items():
        shape = list(tensors[name].shape)
        if shape != expected_shape:
            raise FormatError(
                f"{path}: {name} must be {expected_shape}, by {by}; it is {shape}"
            )
    _check_dtypes(path, tensors, of_any_dtype)


def check_names(
    path: Path | str, tensors: Collection[str], expected: Collection[str]
) -> None:
    """Check that tensors have exactly these names.

    Raises:
        FormatError: a name is missing, or there is another one.
    """
    if set(tensors) != set(expected):
        raise FormatError(
            f"{path} must hold exactly {', '.join(sorted(expected))}; it holds "
            f"{', '.join(sorted(tensors)) or 'nothing'}"
        )


def _check_dtypes(
    path: Path | str, tensors: Mapping[str, Tensor], of_any_dtype: Sequence[str]
) -> None:
    for name, tensor in tensors.items():
        # A pickle can hold sparse tensors and tensors without numbers.
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise FormatError(f"{path}: {name} must be an ordinary dense tensor")

    dtypes = {tensor.dtype for tensor in tensors.values()}
    shared = {
        tensor.dtype for name, tensor in tensors.items() if name not in of_any_dtype
    }
    if len(shared) > 1 or not dtypes.issubset(_FLOATING_DTYPES):
        listing = ", ".join(
            f"{name} {tensor.dtype}" for name, tensor in sorted(tensors.items())
        )
        raise FormatError(
            f"{path} must hold tensors of one floating-point dtype; it holds {listing}"
        )


def refuse_non_finite(
    tensors: Mapping[str, Tensor],
    where: str,
    advice: str = "train it again or restore it",
) -> None:
    """Check that no tensor holds NaN or infinity; ``where`` says whose they are.

    Raises:
        NonFinite: one does. The message names it and ends with ``advice``.
    """
    for name, tensor in tensors.items():
        n_bad = int((~torch.isfinite(tensor)).sum())
        if n_bad:
            raise NonFinite(
                f"{n_bad} of {tensor.numel()} numbers in {name} of {where} are NaN or "
                f"infinite; {advice}"
            )
