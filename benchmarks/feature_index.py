"""An index of 4,096 features against the model's bare forward, on Gemma 3 270M.

A million tokens are indexed by the function that users call, with its checkpoints and
the files at the end. Before every sixteenth batch the model runs up to the site on the
same rows without the index; the index is compared with the time that this takes per
token. Times are processor time of one thread. The memory is the most that the process
had, model and libraries included.

The text is that of ``python -m benchmarks corpus``. Interrupted, it goes on from the
index's own checkpoint, which is a minute old at most.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

import sae_lens_ext as sle
from benchmarks.corpus.texts import corpus_texts
from benchmarks.measure import (
    Mismatch,
    megabytes,
    peak_resident_bytes,
)
from benchmarks.unfinished import unfinished_folder
from sae_lens_ext.demo import DEMO_SITE
from sae_lens_ext.features.reader import Reader
from sae_lens_ext.features.state import IndexState, Sizes
from sae_lens_ext.hosts import TokenBatch
from sae_lens_ext.text import pack
from sae_lens_ext.training.collecting import Collector
from sae_lens_ext.training.stream.rows import FixedRows

N_TOKENS = 1_000_000
LIMIT = 1.2
"""Of the time of an index of so many tokens, by that of the forward passes."""
MEMORY_LIMIT = 2e9
LENGTH = 128
BATCH = 8
# Of so many batches, the bare model reads one as well.
EVERY = 16


class Times(NamedTuple):
    """What an index has taken so far."""

    index_s: float
    """Processor time, without that of the bare runs."""
    bare_s: float
    """That of the bare runs."""
    bare_tokens: int
    """Tokens of the bare runs, those included that do not count."""
    peak: int
    """The most memory that a process had, in bytes."""


class TimedRows:
    """Rows of an index, some of which the bare model reads before the index does.

    A source of rows whose position, which the index keeps in its checkpoints, holds the
    times so far.
    """

    def __init__(self, rows: FixedRows, bare: Callable[[TokenBatch], object]) -> None:
        """Nothing is timed yet.

        Args:
            rows: the rows.
            bare: runs the model on some of them.
        """
        self._rows = rows
        self._bare = bare
        self.facts = rows.facts
        self.tokens_per_epoch = rows.tokens_per_epoch
        self._before = Times(0.0, 0.0, 0, 0)
        self._bare_s = 0.0
        self._bare_tokens = 0
        self._n_batches = 0
        # The index's own time is all since then.
        self._since = time.process_time()

    def start(self, epoch: int) -> None:
        """See ``RowSource.start``."""
        self._rows.start(epoch)

    def next_rows(self, n_rows: int) -> TokenBatch | None:
        """See ``RowSource.next_rows``."""
        rows = self._rows.next_rows(n_rows)
        if rows is not None and self._n_batches % EVERY == 0:
            self._time_bare(rows)
        self._n_batches += 1
        return rows

    def state(self) -> Mapping[str, Any]:
        """See ``RowSource.state``."""
        position = self._rows.state()
        times = self.times()
        print(f"{position['row'] * LENGTH:,} tokens: {times}", flush=True)
        return {**position, "times": times}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See ``RowSource.restore``."""
        self._rows.restore(state)
        self._before = Times(*state["times"])

    @property
    def n_rows(self) -> int:
        """How many rows were read."""
        return self._rows.state()["row"]

    def times(self) -> Times:
        """The times so far, those of processes before this one included."""
        before = self._before
        return Times(
            before.index_s + time.process_time() - self._since,
            before.bare_s + self._bare_s,
            before.bare_tokens + self._bare_tokens,
            max(before.peak, peak_resident_bytes()),
        )

    def _time_bare(self, rows: TokenBatch) -> None:
        start = time.process_time()
        # The first run of a process pays for what is made once.
        if not self._n_batches:
            self._bare(rows)
        before = time.process_time()
        self._bare(rows)
        end = time.process_time()
        self._bare_s += end - before
        self._bare_tokens += rows.n_tokens
        self._since += end - start


def text(model: Any, n_tokens: int) -> Int[Tensor, "row pos"]:
    """Rows of the corpus that the demo's SAEs were trained on."""
    texts = corpus_texts("debian-train")
    n_rows = -(-n_tokens // LENGTH)
    return pack(texts, model.tokenizer, n_rows=n_rows, context=LENGTH)


def run() -> dict[str, float]:
    """Print the table; returns its numbers."""
    torch.set_num_threads(1)
    model = sle.load_bundled(progress=False)
    sae = sle.demo_sae(model)
    # BOS begins every row, and does not count.
    tokens = text(model, N_TOKENS + N_TOKENS // (LENGTH - 1) + LENGTH)
    refuse_miscount(*counted(model, sae, tokens[:BATCH]))
    print(
        f"index of {sae.config.d_sae} features at {DEMO_SITE} of Gemma 3 270M, "
        f"k={sae.config.k}, rows of {LENGTH} tokens, float32"
    )
    folder = unfinished_folder("feature_index")
    results = indexed(model, sae, tokens, folder / "index", N_TOKENS)
    shutil.rmtree(folder)
    print(
        f"an index of {results['tokens']:,} tokens takes "
        f"{results['index_over_bare']:.3f} of the bare forward (goal: {LIMIT}), which "
        f"takes {1e6 * results['bare_per_token']:.0f} us per token; the process takes "
        f"{megabytes(results['resident_peak'])} (goal: {megabytes(MEMORY_LIMIT)})"
    )
    return results


def indexed(
    model: Any,
    sae: sle.SAE,
    tokens: Int[Tensor, "row pos"],
    folder: Path,
    n_tokens: int,
) -> dict[str, float]:
    """Make the index in a folder, or go on with the one that is there."""
    collector = Collector(model, DEMO_SITE)

    def bare(rows: TokenBatch) -> None:
        with torch.no_grad():
            collector.collect(rows, collector.mask_of(rows))

    rows = TimedRows(FixedRows(collector.batch(tokens), collector, None), bare)
    index = sle.features.index(
        model, sae, rows, folder, n_tokens=n_tokens, batch_size=BATCH, progress=False
    )
    times = rows.times()
    per_token = times.bare_s / times.bare_tokens
    n_read = rows.n_rows * LENGTH
    return {
        "tokens": index.n_tokens,
        "bare_per_token": per_token,
        "index_over_bare": times.index_s / (n_read * per_token),
        "index_s": times.index_s,
        "resident_peak": times.peak,
    }


def counted(
    model: Any, sae: sle.SAE, tokens: Int[Tensor, "row pos"]
) -> tuple[IndexState, int, int]:
    """An index of a batch, its active features by the SAE alone, and its tokens."""
    reader = Reader(model, sae, tokens, k=None, positions=None, batch_size=BATCH)
    reader.start()
    state = IndexState(
        sae.config.d_sae, sae.config.trained_k, Sizes(16, 40, 16), torch.device("cpu")
    )
    collector = Collector(model, DEMO_SITE)
    batch = collector.batch(tokens)
    with torch.no_grad():
        step = reader.next_batch()
        assert step is not None
        state.add(*step)
        x = collector.collect(batch, collector.mask_of(batch))[DEMO_SITE]
        return state, int((sae.encode(x).dense() > 0).sum()), len(x)


def refuse_miscount(state: IndexState, n_active: int, n_tokens: int) -> None:
    """Check that an index has counted every active feature of every token.

    Raises:
        Mismatch: it has not.
    """
    n_counted = int(state.tensors()["levels"].sum())
    if state.n_tokens != n_tokens or n_counted != n_active:
        raise Mismatch(
            f"the index has {n_counted} activations of {state.n_tokens} tokens, where "
            f"there are {n_active} of {n_tokens}; not timed"
        )
