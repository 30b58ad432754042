"""Tensors of which every process has a part, on disk.

``torch.distributed.checkpoint`` writes a safetensors file for every process, with the
places of its parts in the file's metadata; no file is a pickle. Any number of processes
reads them, each its own parts, and one process all of them.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.training.parallel import Ranks


def write_sharded(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Write DTensors, and tensors that all processes have; all of them call it.

    Args:
        folder: which all of them see; not there yet.
        tensors: by name; DTensors are divided along their first axis, if at all.
        ranks: the processes.

    Raises:
        OSError: a process cannot write; on all of them.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        with ranks.exchanging() as group:
            save(dict(tensors), storage_writer=writer, process_group=group)
    # No Exception, but the sum of those of all processes.
    except CheckpointException as error:
        reasons = "; ".join(
            f"rank {rank}: {failure[0]}" for rank, failure in error.failures.items()
        )
        raise OSError(f"{folder} cannot be written ({reasons})") from error


def shapes_in(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """The shape and the dtype of every tensor.

    Raises what safetensors raises for a file that is damaged.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    metadata: Any = HuggingFaceStorageReader(str(folder)).read_metadata()
    return {
        name: (tensor.size, tensor.properties.dtype)
        for name, tensor in metadata.state_dict_metadata.items()
    }


def read_sharded(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read into tensors, or into the parts of DTensors; no process waits for another.

    Raises:
        FormatError: the files hold other tensors, or are damaged.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    there = shapes_in(folder)
    here = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    if there != here:
        odd = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        raise FormatError(
            f"{odd[0]} is {_described(there.get(odd[0]))} in {folder} and "
            f"{_described(here.get(odd[0]))} here"
        )
    reader = HuggingFaceStorageReader(str(folder))
    try:
        with warnings.catch_warnings():
            # It tells that no process waits for another, which is meant.
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load(dict(tensors), storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        raise FormatError(f"{folder} is damaged ({error})") from error


def read_whole(folder: Path) -> dict[str, Tensor]:
    """All tensors, put together."""
    tensors = {
        name: torch.empty(size, dtype=dtype)
        for name, (size, dtype) in shapes_in(folder).items()
    }
    read_sharded(folder, tensors)
    return tensors


def _described(described: tuple[torch.Size, torch.dtype] | None) -> str:
    if described is None:
        return "missing"
    size, dtype = described
    return f"{list(size)} {str(dtype).removeprefix('torch.')}"
