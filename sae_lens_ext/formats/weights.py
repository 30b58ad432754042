"""The weights of a whole model, as published folders hold them.

=============================================== ======================================================
file                                            read
=============================================== ======================================================
``model.safetensors``                           first choice
``model.safetensors.index.json`` and its files  if there is no such file
``pytorch_model.bin``                           if there is neither
``pytorch_model.bin.index.json`` and its files  if there is nothing else
=============================================== ======================================================

This package writes no pickle. A ``.bin`` file is one, and some models are published as nothing else: torch reads it with
``weights_only=True``, which makes tensors and plain containers of them and refuses everything that could run.
"""

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.locate import locate
from sae_lens_ext.formats.reading import read_object, read_safetensors

_NAMES = ("model.safetensors", "pytorch_model.bin")


def locate_weights(folder_or_repo: str | Path, *, revision: str | None = None) -> Path:
    """The local folder for a path or a hub repository; ``.bin`` files are downloaded only where there is no safetensors file.

    Errors are those of ``locate``.
    """
    folder = locate(folder_or_repo, revision=revision)
    has_safetensors = any(path.is_file() for path in folder.glob("model*.safetensors"))
    return (
        folder
        if has_safetensors
        else locate(folder_or_repo, revision=revision, also=["pytorch_model*.bin"])
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, on the CPU, under the names they are stored by.

    Raises:
        FormatError: no weights, a file that is missing or cut, a pickle of other things than tensors, or one name in two files.
    """
    found: dict[str, Tensor] = {}
    for path in _files(folder):
        tensors = (
            read_safetensors(path) if path.suffix == ".safetensors" else _read_bin(path)
        )
        twice = found.keys() & tensors.keys()
        if twice:
            raise FormatError(
                f"{path} holds {min(twice)}, and so does another file of {folder}"
            )
        found.update(tensors)
    return found


def _files(folder: Path) -> list[Path]:
    for name in _NAMES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            names = read_object(index).get("weight_map")
            if (
                not isinstance(names, dict)
                or not names
                or not all(
                    isinstance(name, str) and Path(name).name == name
                    for name in names.values()
                )
            ):
                raise FormatError(
                    f"{index} must say under weight_map in which file beside it each tensor is"
                )
            return [folder / name for name in sorted(set(names.values()))]
    raise FormatError(
        f"{folder} holds no weights: none of {', '.join(_NAMES)}, nor an index of either"
    )


def _read_bin(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FormatError(f"{path.parent} holds no {path.name}") from None
    except pickle.UnpicklingError as error:
        raise FormatError(
            f"{path} is no pickle, or one of more than tensors, which could run anything and is not loaded: save its tensors as safetensors"
        ) from error
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise FormatError(
            f"{path} cannot be read (was it cut short?): {str(error) or type(error).__name__}"
        ) from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(one, Tensor) for name, one in found.items()
    ):
        raise FormatError(
            f"{path} must hold a state dict: tensors by name, and nothing else"
        )
    return found
