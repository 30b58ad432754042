"""The weights of a whole model, as published folders hold them.

=============================================== ===============================
file                                            read
=============================================== ===============================
``model.safetensors``                           first choice
``model.safetensors.index.json`` and its files  if there is no such file
``pytorch_model.bin``                           if there is neither
``pytorch_model.bin.index.json`` and its files  if there is nothing else
=============================================== ===============================

A ``.bin`` file is a pickle; see ``pickles``.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.locate import locate_model
from sae_lens_ext.formats.pickles import read_state_dict
from sae_lens_ext.formats.reading import read_object, read_safetensors

_NAMES = ("model.safetensors", "pytorch_model.bin")


def locate_weights(folder_or_repo: str | Path, *, revision: str | None = None) -> Path:
    """The local folder for a path or a hub repository.

    ``.bin`` files are downloaded only where there is no safetensors file. Errors are
    those of ``locate``.
    """
    # Pickles are large and hold nothing that the safetensors do not.
    folder = locate_model(folder_or_repo, revision=revision)
    if any(path.is_file() for path in folder.glob("model*.safetensors")):
        return folder
    return locate_model(folder_or_repo, revision=revision, also=["pytorch_model*.bin"])


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, on the CPU, under the names in its files.

    Raises:
        FormatError: no weights, a file that is missing or cut, a pickle of other things
            than tensors, or one name in two files.
    """
    weights: dict[str, Tensor] = {}
    for path in _files(folder):
        is_safetensors = path.suffix == ".safetensors"
        tensors = read_safetensors(path) if is_safetensors else read_state_dict(path)
        repeated = weights.keys() & tensors.keys()
        if repeated:
            raise FormatError(
                f"{path} holds {min(repeated)}, and so does another file of {folder}"
            )
        weights.update(tensors)
    return weights


def _files(folder: Path) -> list[Path]:
    """The files that hold the weights: one, or those that an index lists."""
    for name in _NAMES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [folder / part for part in _indexed(index)]
    raise FormatError(
        f"{folder} holds no weights: none of {', '.join(_NAMES)}, nor an index of "
        "either"
    )


def _indexed(index: Path) -> list[str]:
    """The names of the files that an index lists, all of them beside it."""
    file_of_tensor = read_object(index).get("weight_map")
    names = file_of_tensor.values() if isinstance(file_of_tensor, dict) else ()
    if not names or not all(_is_file_name(name) for name in names):
        raise FormatError(
            f"{index} must say under weight_map in which file beside it each tensor is"
        )
    return sorted(set(names))


def _is_file_name(value: Any) -> bool:
    """Whether a value is a file's name without a folder, so it stays in the folder."""
    return isinstance(value, str) and Path(value).name == value
