"""What a folder holds before a cache is written to it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.formats.atomic import delete_temporary
from sae_lens_ext.training.stream.cache.index import INDEX, STATISTICS, CacheIndex
from sae_lens_ext.training.stream.states import differences

_SHARD = re.compile(r"\d{6}\.safetensors")


def name_of_shard(number: int) -> str:
    """The name of a file, by its number."""
    return f"{number:06d}.safetensors"


def existing_index(folder: Path, settings: Mapping[str, Any]) -> CacheIndex | None:
    """The index of a folder; None for a new one.

    Raises:
        InvalidArgument: the folder holds something else, or other activations.
    """
    if not (folder / INDEX).exists():
        others = [
            path.name
            for path in folder.iterdir()
            if not _is_ours(path.name) and not path.name.startswith(".")
        ]
        if others:
            raise InvalidArgument(
                f"{folder} is not empty and holds no cache of activations (it holds "
                f"{min(others)}); give another folder"
            )
        return None

    index = CacheIndex.read(folder)
    changes = differences(index.settings, settings)
    if changes:
        raise InvalidArgument(
            f"{folder} holds a cache with other settings: {'; '.join(changes)}. Give "
            "another folder, or delete this one"
        )
    return index


def delete_unfinished(folder: Path, index: CacheIndex | None) -> None:
    """Delete files that were being written when a process was killed."""
    listed = {INDEX, STATISTICS} if index is not None else set()
    if index is not None:
        listed |= {shard.name for shard in index.shards}
    for path in folder.iterdir():
        # Files are written under hidden names first; see formats.atomic.
        is_temporary = path.name.startswith(".") and _is_ours(
            path.name[1:], whole=False
        )
        is_unlisted = _is_ours(path.name) and path.name not in listed
        if is_temporary or is_unlisted:
            delete_temporary(path)


def _is_ours(name: str, *, whole: bool = True) -> bool:
    """Whether a file is one of a cache, or, not ``whole``, begins like one."""
    if whole:
        return name in (INDEX, STATISTICS) or _SHARD.fullmatch(name) is not None
    fixed = name.startswith((f"{INDEX}.", f"{STATISTICS}."))
    return fixed or _SHARD.match(name) is not None
