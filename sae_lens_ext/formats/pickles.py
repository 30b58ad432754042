"""Files of torch: pickles, of which nothing but tensors and plain values is loaded.

This package writes no pickle. Some models and SAEs are published as nothing else: torch
reads them with ``weights_only=True``, which makes tensors and plain containers of them
and refuses everything that could run.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.errors import FormatError


def read_pickle(path: Path) -> dict[str, Any]:
    """The mapping that a file of torch holds: tensors and plain values by name.

    Raises:
        FormatError: no such file, a damaged one, one of other things than tensors and
            plain values, or one that does not hold a mapping with names as keys.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FormatError(f"{path.parent} holds no {path.name}") from None
    except pickle.UnpicklingError as error:
        raise FormatError(
            f"{path} is not a pickle, or is one of more than tensors, which could run "
            "anything and is not loaded: save its tensors as safetensors"
        ) from error
    # The reader of an untrusted file can fail in any way: it is a small machine that
    # the file programs.
    except Exception as error:
        raise FormatError(
            f"{path} cannot be read (was it cut short?): "
            f"{str(error) or type(error).__name__}"
        ) from error

    if not isinstance(values, dict) or not all(
        isinstance(name, str) for name in values
    ):
        raise FormatError(
            f"{path} must hold a state dict: tensors by name, and nothing else"
        )
    return values


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of torch that holds nothing else.

    Raises:
        FormatError: the file holds anything else; see ``read_pickle``.
    """
    values = read_pickle(path)
    if not all(isinstance(tensor, Tensor) for tensor in values.values()):
        raise FormatError(
            f"{path} must hold a state dict: tensors by name, and nothing else"
        )
    return values
