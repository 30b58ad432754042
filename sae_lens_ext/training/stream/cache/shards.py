"""The files of a cache: written in one step, mapped into memory to be read."""

import hashlib
import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.atomic import replacing, saving
from sae_lens_ext.formats.writing import write_tensors
from sae_lens_ext.training.stream.cache.index import Shard

_ADVICE = "delete the folder and collect the activations again"


def write_shard(
    folder: Path, name: str, tensors: Mapping[str, Float[Tensor, "token d"]]
) -> Shard:
    """Write a file of activations, by site; returns what the index says of it.

    Raises:
        OSError: the file cannot be written, for instance because the disk is full.
    """
    path = folder / name
    with replacing(path) as temporary, saving(path):
        write_tensors(temporary, tensors)
        digest = digest_of(temporary)
        n_bytes = temporary.stat().st_size
    n_tokens = len(next(iter(tensors.values())))
    return Shard(name, n_tokens, n_bytes, digest)


def check_size(folder: Path, shard: Shard) -> None:
    """Check that a file is there and as long as it was.

    Raises:
        FormatError: it is missing or has another size.
    """
    path = folder / shard.name
    if not path.is_file():
        raise FormatError(f"{path} is missing; {_ADVICE}")
    n_bytes = path.stat().st_size
    if n_bytes != shard.n_bytes:
        raise FormatError(
            f"{path} has {n_bytes} bytes where {shard.n_bytes} were written; {_ADVICE}"
        )


def check_digest(path: Path, sha256: str) -> None:
    """Check that a file holds the bytes that were written.

    Raises:
        FormatError: it does not.
    """
    try:
        digest = digest_of(path)
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error}); {_ADVICE}") from error
    if digest != sha256:
        raise FormatError(
            f"{path} holds other bytes than were written (its sha256 differs); "
            f"{_ADVICE}"
        )


def map_shard(
    folder: Path, shard: Shard, widths: Mapping[str, int]
) -> dict[str, Float[Tensor, "token d"]]:
    """The activations in a file at some sites, read from the disk when used.

    Raises:
        FormatError: the file does not hold these activations.
    """
    path = folder / shard.name
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {site: file.get_tensor(site) for site in widths}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise FormatError(f"{path} cannot be read ({error}); {_ADVICE}") from error
    for site, width in widths.items():
        shape = list(tensors[site].shape)
        if shape != [shard.n_tokens, width]:
            raise FormatError(
                f"{path}: the activations at {site} must be "
                f"{[shard.n_tokens, width]}; they are {shape}; {_ADVICE}"
            )
        _touch(tensors[site])
    return tensors


def announce(path: Path) -> None:
    """Tell the system that a file will be read soon, so that it is in memory then."""
    if not hasattr(os, "posix_fadvise"):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(handle)


def _touch(tensor: Tensor) -> None:
    """Read a byte of every page, in their order.

    The system then maps many pages at a time. Reached by random rows, most of them
    would cost an interrupt each, which takes ten times as long as reading the rows.
    """
    all_bytes = tensor.view(torch.uint8).flatten()
    all_bytes[:: mmap.PAGESIZE].sum()


def digest_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
