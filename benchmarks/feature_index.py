"""An index of 4,096 features against the model's bare forward, on Gemma 3 270M.

Three measurements stand for an index of a million tokens, whose forward passes alone
take long:

1. The model up to the site, and the index, on the same rows in turns. The first tokens
   cost the most, because every one of them is among the best of its feature so far.
2. The index's own part on activations of a million tokens that were collected before:
   its time per token, and its memory, at the beginning and at the end.
3. Memory of a whole index in a process, and the time of what is done at its end.

Times are processor time of one thread. The text and the activations are those of
``python -m benchmarks corpus`` and ``bundled_saes``.
"""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import sae_lens_ext as sle
from benchmarks.bundled_saes import folder_of_part
from benchmarks.corpus.texts import corpus_texts
from benchmarks.measure import (
    Mismatch,
    megabytes,
    peak_resident,
    peak_resident_bytes,
)
from sae_lens_ext import demo
from sae_lens_ext.demo import DEMO_SITE
from sae_lens_ext.features.folder import Progress, write_checkpoint
from sae_lens_ext.features.logit_effects import logit_effects
from sae_lens_ext.features.neighbours import nearest_features
from sae_lens_ext.features.reader import Reader
from sae_lens_ext.features.state import IndexedBatch, IndexState, Sizes
from sae_lens_ext.text import pack
from sae_lens_ext.training import ActivationCache
from sae_lens_ext.training.collecting import Collector

N_TOKENS = 1_000_000
LIMIT = 1.2
"""Of the time of an index of so many tokens, by that of the forward passes."""
MEMORY_LIMIT = 2e9
ROWS = 256
LENGTH = 128
BATCH = 8
# How often an index writes a checkpoint.
_SECONDS_BETWEEN = 60.0
_SIZES = Sizes(contexts=16, sample=40, window=16)


def text(model: Any, n_rows: int = ROWS) -> Int[Tensor, "row pos"]:
    """Rows of the corpus that the demo's SAEs were trained on."""
    texts = corpus_texts("debian-train")
    return pack(texts, model.tokenizer, n_rows=n_rows, context=LENGTH)


def run() -> dict[str, float]:
    """Print the table; returns its numbers."""
    torch.set_num_threads(1)
    model = sle.load_bundled(progress=False)
    sae = sle.demo_sae(model)
    tokens = text(model)
    refuse_miscount(*counted(model, sae, tokens[:BATCH]))
    print(
        f"index of {sae.config.d_sae} features at {DEMO_SITE} of Gemma 3 270M, "
        f"k={sae.config.k}, {ROWS}x{LENGTH} tokens, float32"
    )

    results = beside_the_forward(model, sae, tokens)
    results |= once(model, sae)
    whole = N_TOKENS * results["bare_per_token"]
    n_checkpoints = LIMIT * whole / _SECONDS_BETWEEN
    once_s = results["finish"] + n_checkpoints * results["checkpoint"]
    results["index_over_bare"] = results["stream_over_bare"] + once_s / whole

    before, peak = peak_resident(prepare)
    results |= {"resident_before": before, "resident_peak": peak}
    # In a process without a model, whose memory would hide what grows.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        results |= pool.submit(own_part, N_TOKENS).result()
    _print(results)
    return results


def _print(results: dict[str, float]) -> None:
    bare = results["bare_per_token"]
    print(f"{'model up to the site':>32} {1e6 * bare:6.0f} us per token")
    print(
        f"{'with the index':>32} {results['stream_over_bare']:.3f} of it, in the "
        f"second half {results['late_over_bare']:.3f}"
    )
    for name in ("encode", "add_early", "add_late"):
        print(f"{name:>32} {1e6 * results[name]:6.1f} us per token")
    print(
        f"{'once':>32} {results['finish']:.1f} s, a checkpoint "
        f"{results['checkpoint']:.2f} s"
    )
    print(
        f"an index of {N_TOKENS:,} tokens takes {results['index_over_bare']:.3f} of "
        f"the bare forward (goal: {LIMIT}); the process takes "
        f"{megabytes(results['resident_peak'])} (goal: {megabytes(MEMORY_LIMIT)}), of "
        f"which model, SAE and libraries {megabytes(results['resident_before'])}; the "
        f"index's own part takes {megabytes(results['own_bytes_short'])} for "
        f"{ROWS * LENGTH:,} tokens and {megabytes(results['own_bytes_long'])} for "
        f"{N_TOKENS:,}"
    )


def beside_the_forward(
    model: Any, sae: sle.SAE, tokens: Int[Tensor, "row pos"]
) -> dict[str, float]:
    """Time the bare forward and the index in turns, batch by batch."""
    collector = Collector(model, DEMO_SITE)
    reader = Reader(model, sae, tokens, k=None, positions=None, batch_size=BATCH)
    reader.start()
    state = _state(sae)
    bare = []
    indexed = []
    with torch.no_grad():
        for rows in tokens.split(BATCH):
            start = time.process_time()
            batch = collector.batch(rows)
            collector.collect(batch, collector.mask_of(batch))
            between = time.process_time()
            step = reader.next_batch()
            assert step is not None
            state.add(*step)
            bare.append(between - start)
            indexed.append(time.process_time() - between)

    # The first batch pays for what is made once.
    half = len(bare) // 2
    return {
        "bare_per_token": sum(bare[1:]) / (len(bare) - 1) / (BATCH * LENGTH),
        "stream_over_bare": sum(indexed[1:]) / sum(bare[1:]),
        "late_over_bare": sum(indexed[half:]) / sum(bare[half:]),
    }


def counted(
    model: Any, sae: sle.SAE, tokens: Int[Tensor, "row pos"]
) -> tuple[IndexState, int, int]:
    """An index of a batch, its active features by the SAE alone, and its tokens."""
    reader = Reader(model, sae, tokens, k=None, positions=None, batch_size=BATCH)
    reader.start()
    state = _state(sae)
    collector = Collector(model, DEMO_SITE)
    batch = collector.batch(tokens)
    with torch.no_grad():
        step = reader.next_batch()
        assert step is not None
        state.add(*step)
        x = collector.collect(batch, collector.mask_of(batch))[DEMO_SITE]
        return state, int((sae.encode(x).dense() > 0).sum()), len(x)


def _state(sae: sle.SAE) -> IndexState:
    largest_k = sae.config.trained_k
    return IndexState(sae.config.d_sae, largest_k, _SIZES, torch.device("cpu"))


def once(model: Any, sae: sle.SAE) -> dict[str, float]:
    """Seconds of what is done once, at the end, and of a checkpoint."""
    reader = Reader(model, sae, [[5]], k=None, positions="all", batch_size=1)
    state = _state(sae)
    start = time.process_time()
    logit_effects(reader.host, reader.place, 10)
    nearest_features(sae.W_dec, 8)
    end = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        # By the clock: it waits for the disk.
        start_of_writing = time.perf_counter()
        write_checkpoint(Path(folder), {}, Progress({}, 0, 0), state.tensors())
        written = time.perf_counter() - start_of_writing
    return {"finish": end - start, "checkpoint": written}


def prepare() -> tuple[Any, Any]:
    """A small index to warm up with, and the one whose memory is measured."""
    torch.set_num_threads(1)
    model = sle.load_bundled(progress=False)
    tokens = text(model, 4 * BATCH)
    sae = sle.demo_sae(model)
    collector = Collector(model, DEMO_SITE)
    batch = collector.batch(tokens[:BATCH])
    return (
        partial(collector.collect, batch, batch.mask),
        partial(index_whole, model, sae, tokens),
    )


def index_whole(model: Any, sae: sle.SAE, tokens: Int[Tensor, "row pos"]) -> None:
    """Make an index in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "index")
        sle.features.index(model, sae, tokens, path, progress=False)


def own_part(n_tokens: int) -> dict[str, float]:
    """Index activations that were collected before.

    The ids of their tokens are not known, and do not matter here.

    Returns:
        Seconds per token, and bytes with those of the activations that are read.
    """
    torch.set_num_threads(1)
    sae = sle.SAE.from_pretrained(Path(demo.__file__).with_name("saes") / DEMO_SITE)
    state = _state(sae)
    ids = torch.randint(4, 250_000, (BATCH, LENGTH))
    batch = IndexedBatch(ids, torch.ones_like(ids).bool(), torch.ones_like(ids).bool())
    encoding = []
    adding = []
    peaks = []
    before = peak_resident_bytes()
    with torch.no_grad():
        n_batches = n_tokens // (BATCH * LENGTH)
        for x in islice(_collected(BATCH * LENGTH), n_batches):
            start = time.process_time()
            code = sae.encode(x.float())
            between = time.process_time()
            state.add(code, batch)
            encoding.append(between - start)
            adding.append(time.process_time() - between)
            if len(adding) in (ROWS // BATCH, n_batches):
                state.tensors()
                peaks.append(peak_resident_bytes() - before)

    per_token = 1 / (BATCH * LENGTH)
    first = adding[: ROWS // BATCH]
    last = adding[-(ROWS // BATCH) :]
    return {
        "encode": sum(encoding) / len(encoding) * per_token,
        "add_early": sum(first) / len(first) * per_token,
        "add_late": sum(last) / len(last) * per_token,
        "own_tokens_short": ROWS * LENGTH,
        "own_bytes_short": peaks[0],
        "own_bytes_long": peaks[-1],
    }


def _collected(n: int) -> Iterator[Float[Tensor, "token d_model"]]:
    """The activations of ``bundled_saes``, some at a time.

    Raises:
        FormatError: they were not collected.
    """
    cache = ActivationCache(folder_of_part(0))
    for shard in cache.shards:
        values = cache.open_shard(shard, [DEMO_SITE])[DEMO_SITE]
        for part in values.split(n):
            if len(part) == n:
                yield part


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
