"""Activations as they are made: pieces of a few rows, in the order of the text."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.hosts import TokenBatch
from sae_lens_ext.text import Resumable
from sae_lens_ext.training.cleaning import check_finite
from sae_lens_ext.training.collecting import Collector
from sae_lens_ext.training.stream.rows import RowSource


class Chunk(NamedTuple):
    """The activations of a few rows."""

    values: Mapping[str, Tensor]
    """By site, ``[token, d]``; the same tokens at every site."""
    n_special: int
    """Special tokens that were left out."""
    after: Mapping[str, Any]
    """The state of the source behind this chunk; JSON values."""

    @property
    def n_tokens(self) -> int:
        """The number of tokens."""
        return len(next(iter(self.values.values())))

    def cut(self, n_tokens: int) -> "Chunk":
        """The first tokens of it."""
        values = {site: part[:n_tokens] for site, part in self.values.items()}
        return self._replace(values=values)


@runtime_checkable
class ChunkSource(Protocol):
    """Chunks in a fixed order.

    Attributes:
        facts: what tells these chunks from others, as JSON values.
        tokens_per_epoch: tokens of one pass, if they are known.
    """

    facts: Mapping[str, Any]
    tokens_per_epoch: int | None

    def start(self, epoch: int) -> None:
        """Go back to the first chunk, for the pass of this number."""
        ...

    def next_chunk(self) -> Chunk | None:
        """The next chunk; None at the end of the pass."""
        ...

    def restore(self, after: Mapping[str, Any]) -> None:
        """Go on behind the chunk that had this state."""
        ...


class Work(NamedTuple):
    """Rows that a model has not run on yet."""

    tokens: TokenBatch
    """The rows."""
    mask: Bool[Tensor, "batch pos"]
    """Which tokens count."""
    n_special: int
    """Special tokens that are left out."""
    after: Mapping[str, Any]
    """The state of the source behind these rows; JSON values."""

    @property
    def n_tokens(self) -> int:
        """The number of tokens that count."""
        return int(self.mask.sum())


class ModelChunks:
    """What a model computes at some sites.

    Attributes:
        dtype: of the activations.
        sites: the names of the sites.
    """

    def __init__(
        self,
        collector: Collector,
        rows: RowSource,
        batch_size: int,
        dtype: torch.dtype,
        facts: Mapping[str, Any],
    ) -> None:
        """Nothing runs yet.

        Args:
            collector: the model and the sites.
            rows: the tokens.
            batch_size: rows of a chunk, and of a forward pass.
            dtype: of the activations.
            facts: what tells these chunks from others.
        """
        self.sites = collector.sites
        self._collector = collector
        self._rows = rows
        self._batch_size = batch_size
        self.dtype = dtype
        self.facts = facts
        self.tokens_per_epoch = rows.tokens_per_epoch

    def start(self, epoch: int) -> None:
        """See ``ChunkSource.start``."""
        self._rows.start(epoch)

    def next_chunk(self) -> Chunk | None:
        """See ``ChunkSource.next_chunk``.

        Raises:
            NonFinite: the model produced NaN or infinity; the error names the site.
        """
        work = self.next_work()
        if work is None:
            return None
        return Chunk(self.computed(work), work.n_special, work.after)

    def next_work(self) -> Work | None:
        """The rows of the next chunk; None at the end of the pass."""
        rows = self._rows.next_rows(self._batch_size)
        if rows is None:
            return None
        tokens = self._collector.batch(rows)
        mask = self._collector.mask_of(tokens)
        n_special = self._collector.n_special(tokens, mask)
        return Work(tokens, mask, n_special, self._rows.state())

    def computed(self, work: Work) -> dict[str, Float[Tensor, "token _d"]]:
        """The activations at every site; see ``next_chunk``."""
        values = {}
        for site, part in self._collector.collect(work.tokens, work.mask).items():
            check_finite(site, part)
            values[site] = part.to(self.dtype)
        return values

    def restore(self, after: Mapping[str, Any]) -> None:
        """See ``ChunkSource.restore``."""
        self._rows.restore(after)


class IterableChunks:
    """Activations that people bring, piece by piece."""

    def __init__(
        self, chunks: Any, sites: tuple[str, ...], dtype: torch.dtype | None
    ) -> None:
        """Nothing is read yet.

        Args:
            chunks: an iterable of ``[token, d]``, or of mappings from the name of a
                site to such a tensor; or a function that returns one.
            sites: the sites.
            dtype: of the activations; None keeps theirs.
        """
        self._chunks = Resumable(chunks, "activations")
        self._sites = sites
        self._dtype = dtype
        self.facts: Mapping[str, Any] = {
            "activations": type(chunks).__name__,
            "dtype": "as it comes" if dtype is None else str(dtype),
        }
        self.tokens_per_epoch: int | None = None

    def start(self, epoch: int) -> None:
        """See ``ChunkSource.start``."""
        self._chunks.start(epoch)

    def next_chunk(self) -> Chunk | None:
        """See ``ChunkSource.next_chunk``.

        Raises:
            InvalidArgument: a chunk is not made of activations of these sites.
            ShapeMismatch: sites have different numbers of tokens.
            NonFinite: a chunk holds NaN or infinity.
        """
        for item in self._chunks:
            values = self._checked(item)
            for site, part in values.items():
                check_finite(site, part)
            if self._dtype is not None:
                values = {site: part.to(self._dtype) for site, part in values.items()}
            return Chunk(values, 0, self._chunks.state())
        return None

    def width(self, site: str) -> int:
        """The width of a site in the first chunk, which is not taken by this.

        Raises:
            InvalidArgument: see ``next_chunk``; or there are no chunks.
        """
        item = self._chunks.peek()
        if item is None:
            raise InvalidArgument(
                "there are no activations to train on: the iterable is empty"
            )
        return self._checked(item)[site].shape[1]

    def restore(self, after: Mapping[str, Any]) -> None:
        """See ``ChunkSource.restore``."""
        self._chunks.restore(after)

    def _checked(self, item: Any) -> dict[str, Float[Tensor, "token _d"]]:
        if isinstance(item, Tensor) and len(self._sites) == 1:
            item = {self._sites[0]: item}
        return checked_activations(item, self._sites)


def checked_activations(
    tensors: Any, sites: tuple[str, ...]
) -> dict[str, Float[Tensor, "token d"]]:
    """Activations of the same tokens at these sites, without gradients.

    Raises:
        InvalidArgument: other sites, or anything but tensors of float32, bfloat16 or
            float64.
        ShapeMismatch: tensors that are not ``[token, d]``, or of different lengths.
    """
    if not isinstance(tensors, Mapping) or set(tensors) != set(sites):
        names = type(tensors).__name__
        if isinstance(tensors, Mapping):
            names = f"tensors for {', '.join(map(str, tensors)) or 'no site'}"
        raise InvalidArgument(
            f"activations must be a mapping from {', '.join(sites)} to tensors "
            f"[token, d]; got {names}"
        )
    for site in sites:
        _check_tensor(site, tensors[site])
    lengths = {site: len(tensors[site]) for site in sites}
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"{n} at {site}" for site, n in lengths.items())
        raise ShapeMismatch(
            f"all sites must have activations of the same tokens; got {listing}"
        )
    return {site: tensors[site].detach() for site in sites}


def _check_tensor(site: str, tensor: Any) -> None:
    is_tensor = isinstance(tensor, Tensor)
    if is_tensor and tensor.dtype == torch.float16:
        raise InvalidArgument(
            f"the activations at {site} are float16, which overflows on models of the "
            "Gemma family (one token in a thousand); use bfloat16 or float32"
        )
    if not is_tensor or tensor.dtype not in (
        torch.float32,
        torch.bfloat16,
        torch.float64,
    ):
        got = tensor.dtype if is_tensor else f"a {type(tensor).__name__}"
        raise InvalidArgument(
            f"the activations at {site} must be a tensor of float32, bfloat16 or "
            f"float64; got {got}"
        )
    if tensor.is_meta or tensor.layout != torch.strided:
        raise InvalidArgument(
            f"the activations at {site} must be an ordinary dense tensor; got one "
            f"{'without numbers' if tensor.is_meta else str(tensor.layout)}"
        )
    if tensor.ndim != 2 or not tensor.shape[1]:
        raise ShapeMismatch(
            f"the activations at {site} must be [token, d]; got {list(tensor.shape)}"
        )
