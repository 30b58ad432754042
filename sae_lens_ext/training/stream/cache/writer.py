"""Collect activations into a cache on disk, and go on where that was interrupted.

1. Take the lock of the folder; compare the settings with those of what is there.
2. Delete what the index does not list: it was not finished.
3. Run the model from the position in the text that the index holds.
4. For every shard: write the file, then the index that lists it, with the position in
   the text behind it. A process that is killed loses what came after that: less than a
   shard, and all of it before the first one is written.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.formats.atomic import replacing, saving
from sae_lens_ext.formats.writing import write_tensors
from sae_lens_ext.hosts import name_of_model
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.training.cleaning import (
    largest_norm,
    mean_and_scale,
    shrink_outliers,
)
from sae_lens_ext.training.collecting import Collector
from sae_lens_ext.training.stream.ahead import Ahead
from sae_lens_ext.training.stream.base import SiteStatistics
from sae_lens_ext.training.stream.cache.existing import (
    delete_unfinished,
    existing_index,
    name_of_shard,
)
from sae_lens_ext.training.stream.cache.folder import ActivationCache
from sae_lens_ext.training.stream.cache.index import STATISTICS, CacheIndex
from sae_lens_ext.training.stream.cache.lock import writing
from sae_lens_ext.training.stream.cache.shards import digest_of, write_shard
from sae_lens_ext.training.stream.chunks import Chunk
from sae_lens_ext.training.stream.model import model_chunks
from sae_lens_ext.training.stream.options import checked_dtype
from sae_lens_ext.training.stream.states import statistics_as_tensors

# What a safetensors file takes beside its numbers, at most.
_HEADER = 4096


def cache_activations(
    model: Any,
    tokens: Any,
    sites: Sequence[str] | str,
    folder: str | Path,
    *,
    positions: Positions = None,
    n_tokens: int | None = None,
    max_bytes: int | None = None,
    batch_size: int = 8,
    dtype: torch.dtype | str = torch.float32,
    shard_tokens: int = 1 << 15,
    model_name: str | None = None,
    overlap: bool | None = None,
    progress: bool = True,
) -> ActivationCache:
    """Collect the activations at some sites into a folder; one pass of the model.

    ::

        rows = TextRows("my_texts", tokenizer)
        cache_activations(model, rows, ["blocks.5.hook_resid_post"], "my_cache")
        stream = CacheStream("my_cache")

    Called again with the same settings, it goes on where it was interrupted, and the
    folder is the same as without the interruption (on a CPU, bit for bit). A
    ``CacheStream`` can read the folder meanwhile, in this process or another. Special
    tokens and outliers are handled as in ``ModelStream``; the median and the constants
    are those of the first shard.

    Args:
        model: as in ``splice``.
        tokens: as in ``ModelStream``; read once, in their order.
        sites: one or several names of sites.
        folder: a new folder, or one that this function wrote.
        positions: as in ``ModelStream``.
        n_tokens: collection ends with the batch of rows that reaches it; None reads
            all of the text.
        max_bytes: collection ends before the shards exceed it.
        batch_size: rows per forward pass.
        dtype: of the activations, float32 or bfloat16, which takes half the space.
        shard_tokens: tokens of a shard, which ends with a batch of rows; so many may be
            computed again after an interruption.
        model_name: name of the model; by default what its config says.
        overlap: whether a thread runs the model while shards are written; by default if
            the model is on a GPU.
        progress: whether to show a progress bar.

    Raises:
        UnknownSite: the model has no such site.
        InvalidArgument: an invalid option; a folder of something else, or of a cache
            with other settings (the error lists them); another process writes there; or
            no token is left.
        NonFinite: the model produced NaN or infinity; the error names the site.
        FormatError: the cache that is there is damaged.
        OSError: the folder cannot be written to, for instance because the disk is full;
            the shards before are kept.
    """
    folder = Path(folder)
    limits = _Limits.checked(n_tokens, max_bytes)
    shard_tokens = arguments.positive_int(shard_tokens, "shard_tokens")
    storage_dtype = checked_dtype(dtype)
    collector = Collector(model, sites, positions)
    chunks = model_chunks(
        collector,
        tokens,
        batch_size=arguments.positive_int(batch_size, "batch_size"),
        dtype=storage_dtype,
        seed=None,
        positions=positions,
        overlap=overlap,
    )
    # The rows of a pass may change when a collection goes on: they change nothing
    # beyond rounding.
    facts = {name: fact for name, fact in chunks.facts.items() if name != "batch_size"}
    settings = {"sites": list(collector.sites), **facts}
    about = {
        "settings": settings,
        "model_name": model_name or name_of_model(model),
        "excludes_special_tokens": collector.excludes_special_tokens,
    }
    try:
        with writing(folder):
            index = existing_index(folder, settings)
            delete_unfinished(folder, index)
            if index is None or not limits.are_reached(index):
                _collect(folder, index, chunks, about, limits, shard_tokens, progress)
    finally:
        chunks.close()
    return ActivationCache(folder)


class _Limits:
    """When a collection ends."""

    def __init__(self, n_tokens: int | None, max_bytes: int | None) -> None:
        self.n_tokens = n_tokens
        self.max_bytes = max_bytes

    @classmethod
    def checked(cls, n_tokens: int | None, max_bytes: int | None) -> "_Limits":
        if n_tokens is not None:
            n_tokens = arguments.positive_int(n_tokens, "n_tokens")
        if max_bytes is not None:
            max_bytes = arguments.positive_int(max_bytes, "max_bytes")
        return cls(n_tokens, max_bytes)

    def are_reached(self, index: CacheIndex) -> bool:
        """Whether nothing is to be added to a cache."""
        if index.is_exhausted or self.has_enough(index.n_tokens):
            return True
        # It ended because the next shard would have been too much.
        is_full = not self.allow(index.n_bytes + index.shards[-1].n_bytes + _HEADER)
        return index.is_complete and is_full

    def has_enough(self, n_tokens: int) -> bool:
        return self.n_tokens is not None and n_tokens >= self.n_tokens

    def allow(self, n_bytes: int) -> bool:
        return self.max_bytes is None or n_bytes <= self.max_bytes


def _collect(
    folder: Path,
    index: CacheIndex | None,
    chunks: Ahead,
    about: Mapping[str, Any],
    limits: _Limits,
    shard_tokens: int,
    progress: bool,
) -> None:
    """Run the model, and write shards until there are enough."""
    tqdm = require("tqdm.auto", "Showing progress").tqdm
    if index is None or index.source is None:
        chunks.start(0)
    else:
        chunks.restore(index.source)
        # Its readers wait for more from now on.
        if index.is_complete:
            index = replace(index, is_complete=False)
            index.write(folder)

    n_before = 0 if index is None else index.n_tokens
    bar = tqdm(
        total=limits.n_tokens,
        initial=n_before,
        desc="activations",
        unit="token",
        unit_scale=True,
        disable=not progress,
    )
    with bar:
        writer = _Writer(folder, index, about, limits, shard_tokens)
        while not writer.is_done:
            chunk = chunks.next_chunk()
            writer.add(chunk)
            if chunk is not None:
                bar.update(chunk.n_tokens)


class _Writer:
    """Gathers chunks, and writes a shard when there are enough."""

    def __init__(
        self,
        folder: Path,
        index: CacheIndex | None,
        about: Mapping[str, Any],
        limits: _Limits,
        shard_tokens: int,
    ) -> None:
        self._folder = folder
        self._index = index
        self._about = about
        self._limits = limits
        self._shard_tokens = shard_tokens
        self._n_before = 0
        self._norms: dict[str, Tensor] = {}
        if index is not None:
            self._n_before = index.n_tokens
            statistics = ActivationCache(folder).statistics()
            self._norms = {
                site: constants.largest_norm for site, constants in statistics.items()
            }
        self._parts: list[Chunk] = []
        self._n_gathered = 0
        self.is_done = False

    def add(self, chunk: Chunk | None) -> None:
        """Take a chunk; None stands for the end of the text."""
        if chunk is not None:
            on_cpu = {site: part.cpu() for site, part in chunk.values.items()}
            self._parts.append(chunk._replace(values=on_cpu))
            self._n_gathered += chunk.n_tokens
        has_enough = self._limits.has_enough(self._n_before + self._n_gathered)
        is_last = chunk is None or has_enough
        if not is_last and self._n_gathered < self._shard_tokens:
            return

        has_room = not self._n_gathered or self._write()
        if is_last or not has_room:
            self._finish(is_exhausted=chunk is None and has_room)

    def _write(self) -> bool:
        """Write a shard of what was gathered; False where it would be too much."""
        values = {
            site: torch.cat([part.values[site] for part in self._parts])
            for site in self._parts[0].values
        }
        n_bytes = _HEADER + sum(part.nbytes for part in values.values())
        n_bytes_before = 0 if self._index is None else self._index.n_bytes
        if not self._limits.allow(n_bytes_before + n_bytes):
            return False

        index = self._index
        if index is None:
            index = self._new_index(values)
        n_outliers = dict(index.n_outliers)
        for site, part in values.items():
            values[site], n_shrunk = shrink_outliers(part, self._norms[site])
            n_outliers[site] = n_outliers.get(site, 0) + int(n_shrunk)

        name = name_of_shard(len(index.shards))
        with self._saying_what_is_kept():
            shard = write_shard(self._folder, name, values)
            index = index.with_shard(
                shard,
                source=self._parts[-1].after,
                n_special=index.n_special + sum(part.n_special for part in self._parts),
                n_outliers=n_outliers,
            )
            index.write(self._folder)
        self._index = index
        self._n_before += self._n_gathered
        self._n_gathered = 0
        self._parts = []
        return True

    def _new_index(self, values: Mapping[str, Float[Tensor, "token d"]]) -> CacheIndex:
        """The index before the first shard, with the constants of its tokens."""
        statistics = {}
        for site, part in values.items():
            self._norms[site] = largest_norm(part)
            shrunk, _ = shrink_outliers(part, self._norms[site])
            mean, scale = mean_and_scale(shrunk)
            statistics[site] = SiteStatistics(mean, scale, self._norms[site])
        path = self._folder / STATISTICS
        with (
            self._saying_what_is_kept(),
            replacing(path) as temporary,
            saving(path),
        ):
            write_tensors(temporary, statistics_as_tensors(statistics))
        widths = {site: part.shape[1] for site, part in values.items()}
        return CacheIndex(widths=widths, statistics=digest_of(path), **self._about)

    def _finish(self, *, is_exhausted: bool) -> None:
        """Write that the cache is complete."""
        if self._index is None:
            reason = "all tokens are left out, or there are none"
            if self._n_gathered:
                reason = "max_bytes is less than the first shard takes"
            raise InvalidArgument(f"there are no activations to keep: {reason}")
        self._index = replace(self._index, is_complete=True, is_exhausted=is_exhausted)
        with self._saying_what_is_kept():
            self._index.write(self._folder)
        self.is_done = True

    @contextlib.contextmanager
    def _saying_what_is_kept(self) -> Iterator[None]:
        """Raise errors of the disk with what is whole, and what to do."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"the cache in {self._folder} cannot be written ({error}); "
                f"{self._n_before:,} tokens are kept there: make room, and call "
                "again to go on"
            ) from error
