"""What a cache holds: ``index.json``, replaced as a whole with every new shard.

A shard that the index does not list does not exist: it was not finished.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.formats.reading import (
    check_flag,
    check_size,
    check_string,
    read_object,
)

INDEX = "index.json"
STATISTICS = "statistics.safetensors"
_KIND = "sae_lens_ext activation cache"
_VERSION = 1
_LACKING = "it is not a cache of activations, or none of it is finished yet"


@dataclass(frozen=True)
class Shard:
    """One file of activations."""

    name: str
    """Its name in the folder."""
    n_tokens: int
    """Tokens in it."""
    n_bytes: int
    """Its size."""
    sha256: str
    """The digest of its bytes."""


@dataclass(frozen=True)
class CacheIndex:
    """What a cache holds."""

    settings: Mapping[str, Any]
    """Where the activations come from: model, text, options."""
    widths: Mapping[str, int]
    """The width of the activations, by site."""
    model_name: str | None
    """Name of the model, if it is known."""
    excludes_special_tokens: bool
    """Whether special tokens are left out."""
    statistics: str
    """The digest of the file with the constants of the sites."""
    shards: tuple[Shard, ...] = ()
    """The files, in the order of the text."""
    n_special: int = 0
    """Special tokens that were left out."""
    n_outliers: Mapping[str, int] = field(default_factory=dict)
    """Tokens that were shrunk, by site."""
    source: Mapping[str, Any] | None = None
    """The position in the text behind the last shard."""
    is_complete: bool = False
    """Whether all is written that was asked for."""
    is_exhausted: bool = False
    """Whether the text has no more tokens."""

    @property
    def n_tokens(self) -> int:
        """Tokens in all shards."""
        return sum(shard.n_tokens for shard in self.shards)

    @property
    def n_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.n_bytes for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Replace the index of a folder; its files are on the disk already."""
        content = {"kind": _KIND, "version": _VERSION, **asdict(self)}
        with replacing(folder / INDEX) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "CacheIndex":
        """Read the index of a folder.

        Raises:
            FormatError: there is none, or it is damaged or of another version.
        """
        path = folder / INDEX
        content = read_object(path, _LACKING)
        if content.get("kind") != _KIND or content.get("version") != _VERSION:
            raise FormatError(
                f"{path} is not the index of a cache of version {_VERSION}; collect "
                "the activations again in another folder"
            )
        try:
            fields = {name: content[name] for name in cls.__dataclass_fields__}
            shards = tuple(_shard(path, value) for value in fields["shards"])
            widths = {
                site: check_size(path, f"the width of {site}", width)
                for site, width in fields["widths"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(
                f"{path} does not say what the cache holds ({error!r}); collect the "
                "activations again in another folder"
            ) from error
        check_flag(path, "is_complete", fields["is_complete"])
        return cls(**{**fields, "shards": shards, "widths": widths})

    def with_shard(self, shard: Shard, **changes: Any) -> "CacheIndex":
        """The index with one more shard."""
        return replace(self, shards=(*self.shards, shard), **changes)


def _shard(path: Path, value: Any) -> Shard:
    shard = Shard(**value)
    name = check_string(path, "the name of a shard", shard.name)
    if Path(name).name != name:
        raise FormatError(f"{path}: the shard {name!r} must be in the same folder")
    check_size(path, f"n_tokens of {name}", shard.n_tokens)
    check_size(path, f"n_bytes of {name}", shard.n_bytes)
    check_string(path, f"sha256 of {name}", shard.sha256)
    return shard
