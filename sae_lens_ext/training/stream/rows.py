"""Rows of tokens for a model to run on, with a position that can be saved."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from sae_lens_ext.hosts import TokenBatch
from sae_lens_ext.text import Resumable
from sae_lens_ext.training.collecting import Collector


@runtime_checkable
class RowSource(Protocol):
    """Rows of tokens in a fixed order.

    Attributes:
        facts: what tells these rows from others, as JSON values.
        tokens_per_epoch: how many tokens of one pass count, if that is known.
    """

    facts: Mapping[str, Any]
    tokens_per_epoch: int | None

    def start(self, epoch: int) -> None:
        """Go back to the first row, for the pass of this number."""
        ...

    def next_rows(self, n_rows: int) -> Any:
        """At most this many rows, in a form of ``token_batch``; None at the end."""
        ...

    def state(self) -> Mapping[str, Any]:
        """Where the next row is; JSON values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        ...


def row_source(tokens: Any, collector: Collector, seed: int | None) -> RowSource:
    """The rows of whatever a user brings.

    Args:
        tokens: a ``TextRows`` or another ``RowSource``; tokens in any form that
            ``token_batch`` takes; or any other iterable of such tokens, such as a
            ``DataLoader`` or a list of ``TokenBatch``.
        collector: the model that the tokens are for.
        seed: the seed of the order of rows in memory; None keeps theirs.
    """
    if isinstance(tokens, RowSource):
        return tokens
    is_list = isinstance(tokens, list | tuple) and len(tokens) > 0
    if is_list and all(isinstance(batch, TokenBatch) for batch in tokens):
        return IteratedRows(tokens, collector)
    is_tokens = isinstance(
        tokens, TokenBatch | Tensor | np.ndarray | str | list | tuple
    )
    # A tokenizer's output is a mapping by its methods.
    if is_tokens or isinstance(tokens, Mapping) or hasattr(tokens, "input_ids"):
        return FixedRows(collector.batch(tokens), collector, seed)
    if isinstance(tokens, Iterable) or callable(tokens):
        return IteratedRows(tokens, collector)
    # It says what tokens may be.
    return FixedRows(collector.batch(tokens), collector, seed)


def digest_of(tokens: TokenBatch) -> str:
    """What tells some rows from others."""
    text = tokens.ids.where(tokens.mask, -1).cpu().numpy()
    return hashlib.sha256(text.tobytes()).hexdigest()[:16]


class FixedRows:
    """Rows in memory; each pass may have an order of its own."""

    def __init__(
        self, tokens: TokenBatch, collector: Collector, seed: int | None
    ) -> None:
        """Keep the rows.

        Args:
            tokens: the rows.
            collector: the model, which says which of the tokens count.
            seed: the seed of the order; None keeps that of the rows.
        """
        self._tokens = tokens
        self._seed = seed
        self.facts: Mapping[str, Any] = {
            "rows": list(tokens.ids.shape),
            "ids": digest_of(tokens),
        }
        self.tokens_per_epoch: int | None = int(collector.mask_of(tokens).sum())
        self.start(0)

    def start(self, epoch: int) -> None:
        """See ``RowSource.start``."""
        self._epoch = epoch
        self._position = 0
        n_rows = len(self._tokens)
        self._order = torch.arange(n_rows)
        if self._seed is not None:
            order = np.random.default_rng([self._seed, epoch]).permutation(n_rows)
            self._order = torch.from_numpy(order)

    def next_rows(self, n_rows: int) -> TokenBatch | None:
        """See ``RowSource.next_rows``."""
        chosen = self._order[self._position : self._position + n_rows]
        self._position += len(chosen)
        device = self._tokens.ids.device
        return self._tokens[chosen.to(device)] if len(chosen) else None

    def state(self) -> Mapping[str, Any]:
        """See ``RowSource.state``."""
        return {"epoch": self._epoch, "row": self._position}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See ``RowSource.restore``."""
        self.start(state["epoch"])
        self._position = state["row"]


class IteratedRows:
    """Batches of tokens that people bring, cut to the size of a forward pass."""

    def __init__(self, batches: Any, collector: Collector) -> None:
        """Nothing is read yet.

        Args:
            batches: an iterable of tokens, each in a form of ``token_batch``; or a
                function that returns one.
            collector: the model that the tokens are for.
        """
        self._collector = collector
        facts = {"tokens": type(batches).__name__}
        if isinstance(batches, Iterator) and not hasattr(batches, "state_dict"):
            # Its type says nothing of the text. What is read here comes first again.
            first = list(islice(batches, 1))
            batches = chain(first, batches)
            for tokens in first:
                facts["first"] = digest_of(collector.batch(tokens))
        self._batches = Resumable(batches, "tokens")
        self.facts: Mapping[str, Any] = facts
        self.tokens_per_epoch: int | None = None
        self.start(0)

    def start(self, epoch: int) -> None:
        """See ``RowSource.start``."""
        self._batches.start(epoch)
        self._before: Mapping[str, Any] = self._batches.state()
        self._batch: TokenBatch | None = None
        self._n_given = 0

    def next_rows(self, n_rows: int) -> TokenBatch | None:
        """See ``RowSource.next_rows``."""
        if self._batch is None or self._n_given == len(self._batch):
            self._read()
        if self._batch is None:
            return None
        rows = self._batch[self._n_given : self._n_given + n_rows]
        self._n_given += len(rows)
        return rows

    def state(self) -> Mapping[str, Any]:
        """See ``RowSource.state``."""
        return {"batches": self._before, "rows": self._n_given}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See ``RowSource.restore``."""
        self._batches.restore(state["batches"])
        self._before = state["batches"]
        self._batch = None
        self._n_given = 0
        if state["rows"]:
            self._read()
            self._n_given = state["rows"]

    def _read(self) -> None:
        self._before = self._batches.state()
        self._batch = None
        self._n_given = 0
        for tokens in self._batches:
            self._batch = self._collector.batch(tokens)
            return
