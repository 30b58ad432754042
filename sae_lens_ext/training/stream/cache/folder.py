"""A cache of activations on disk."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import FormatError
from sae_lens_ext.training.stream.base import SiteStatistics
from sae_lens_ext.training.stream.cache.index import (
    INDEX,
    STATISTICS,
    CacheIndex,
    Shard,
)
from sae_lens_ext.training.stream.cache.lock import is_being_written
from sae_lens_ext.training.stream.cache.shards import (
    check_digest,
    check_size,
    map_shard,
)
from sae_lens_ext.training.stream.states import statistics_of_tensors

# Between two looks at an index that is being written.
_SECONDS_BETWEEN = 0.2


class ActivationCache:
    """A folder of activations, which may still be written by another process.

    ``cache_activations`` makes one, and ``CacheStream`` reads it.

    Attributes:
        folder: where it is.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the index; waits for the first shard if a process writes the cache.

        Raises:
            FormatError: not a cache, or one with a missing or shortened file.
        """
        self.folder = Path(folder)
        while not (self.folder / INDEX).exists() and is_being_written(self.folder):
            time.sleep(_SECONDS_BETWEEN)
        self._index = CacheIndex.read(self.folder)
        self._verified: set[str] = set()
        self._n_checked = 0
        self._check_sizes()

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the sites."""
        return tuple(self._index.widths)

    @property
    def widths(self) -> Mapping[str, int]:
        """The width of the activations, by site."""
        return self._index.widths

    @property
    def n_tokens(self) -> int:
        """Tokens that were there at the last look."""
        return self._index.n_tokens

    @property
    def n_bytes(self) -> int:
        """Bytes of activations that were there at the last look."""
        return self._index.n_bytes

    @property
    def is_complete(self) -> bool:
        """Whether all is written that was asked for, at the last look."""
        return self._index.is_complete

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the activations."""
        return arguments.dtype(self._index.settings.get("dtype"))

    @property
    def settings(self) -> Mapping[str, Any]:
        """Where the activations come from: model, text, options."""
        return self._index.settings

    @property
    def model_name(self) -> str | None:
        """Name of the model, if it is known."""
        return self._index.model_name

    @property
    def excludes_special_tokens(self) -> bool:
        """Whether special tokens are left out."""
        return self._index.excludes_special_tokens

    @property
    def counts(self) -> Mapping[str, int]:
        """What has happened to tokens: ``"special"`` left out, ``"outliers"`` shrunk.

        A token is counted as an outlier at every site where it is one.
        """
        n_outliers = sum(self._index.n_outliers.values())
        return {"special": self._index.n_special, "outliers": n_outliers}

    @property
    def shards(self) -> Sequence[Shard]:
        """The files, in the order of the text."""
        return self._index.shards

    def refresh(self) -> None:
        """Look again at what is there.

        Raises:
            FormatError: a file is missing or was shortened.
        """
        self._index = CacheIndex.read(self.folder)
        self._check_sizes()

    def check_growing(self) -> None:
        """Check that a process writes what is missing.

        Raises:
            FormatError: the cache is not complete, and no process writes it.
        """
        if not self.is_complete and not is_being_written(self.folder):
            self.refresh()
            if not self.is_complete:
                raise self._interrupted()

    def wait_for(self, n_shards: int) -> None:
        """Return when there are so many shards, or all that there will be.

        Raises:
            FormatError: the cache is not complete, and no process writes it.
        """
        while not self.is_complete and len(self.shards) < n_shards:
            is_writing = is_being_written(self.folder)
            # After the writer was looked for, or its last shard could be missed.
            self.refresh()
            if self.is_complete or len(self.shards) >= n_shards:
                return
            if not is_writing:
                raise self._interrupted()
            time.sleep(_SECONDS_BETWEEN)

    def statistics(self) -> dict[str, SiteStatistics]:
        """The constants of every site, of the tokens of the first shard.

        Raises:
            FormatError: the file that holds them is damaged.
        """
        path = self.folder / STATISTICS
        check_digest(path, self._index.statistics)
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{path} cannot be read ({error})") from error
        return statistics_of_tensors(tensors, self.sites)

    def open_shard(self, shard: Shard, sites: Sequence[str]) -> dict[str, Tensor]:
        """The activations of a shard, mapped into memory; its bytes are checked once.

        Raises:
            FormatError: the file is damaged.
        """
        if shard.name not in self._verified:
            check_digest(self.folder / shard.name, shard.sha256)
            self._verified.add(shard.name)
        widths = {site: self.widths[site] for site in sites}
        return map_shard(self.folder, shard, widths)

    def _interrupted(self) -> FormatError:
        return FormatError(
            f"{self.folder} is not complete: it holds {self.n_tokens} tokens, and no "
            "process is writing to it; call cache_activations again to go on, or read "
            "what is there with unfinished=True"
        )

    def _check_sizes(self) -> None:
        for shard in self.shards[self._n_checked :]:
            check_size(self.folder, shard)
        self._n_checked = len(self.shards)

    def __repr__(self) -> str:
        """Where it is, and how much it holds."""
        state = "complete" if self.is_complete else "not complete"
        return (
            f"ActivationCache({str(self.folder)!r}, {self.n_tokens} tokens of "
            f"{', '.join(self.sites)}, {self.n_bytes / 1e9:.2f} GB, {state})"
        )
