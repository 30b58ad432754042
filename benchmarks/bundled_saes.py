"""Make the SAEs that come with the package: ``python -m benchmarks bundled_saes``.

HierarchicalTopK SAEs for the residual stream of Gemma 3 270M after blocks 5, 9 and 13,
trained on text of the training half of ``python -m benchmarks corpus``:

1. Two processes collect the activations of 5 million tokens at the three sites, each in
   one pass of the model over every second document, into the package's cache folder
   (20 GB).
2. Two processes train the SAEs, each as a run in the cache folder, from activations in
   memory (7 GB per process). Errors count by the Fisher information of the model's
   predictions, which is taken from 64 rows of the same text.
3. Each SAE is written to ``sae_lens_ext/demo/saes``, its matrices in bfloat16.
4. What was written is measured on text of kinds that it was not trained on: sayings and
   verse (``fortunes``), and PostgreSQL's documentation. Tables, a picture and a card
   are written beside it.

On two cores it takes about two hours. Interrupted, it goes on where it was.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import chain, repeat, zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import sae_lens_ext as sle
from benchmarks.corpus.packages import HELD_OUT
from benchmarks.corpus.texts import beginnings, corpus_texts, spread_beginnings
from sae_lens_ext import demo
from sae_lens_ext.demo import DEMO_SAES, cache_folder, prepare_bundled
from sae_lens_ext.demo.bundled import load_folder
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.publishing import model_card, save_results
from sae_lens_ext.training import (
    ActivationCache,
    ErrorMetric,
    TensorStream,
    TextRows,
    TrainConfig,
    cache_activations,
    fisher_metric,
)

D_SAE = {
    "blocks.5.hook_resid_post": 2048,
    "blocks.9.hook_resid_post": 4096,
    "blocks.13.hook_resid_post": 2048,
}
# The rest of it is the recipe, the defaults.
CONFIG = TrainConfig(d_sae=4096, k=64, batch_size=1024, lr=4e-3)
KS = (1, 2, 4, 8, 16, 32, 64)
N_TOKENS = 5_000_000
N_PROCESSES = 2
CONTEXT = 128
# The share of the Fisher information in the metric of errors; see ``fisher_share``.
SHARE = 0.5
N_METRIC_ROWS = 64
N_SCORED_ROWS = 16
_LOADING = "model = sle.load_bundled()\nsae = sle.demo_sae(model, block={block})"


def run() -> list[dict[str, Any]]:
    """Make all of them, and print their tables."""
    # Once, before two processes need it.
    prepare_bundled()
    collect(N_TOKENS)
    # The largest first, so that one process trains it and the other one the rest.
    for _ in in_processes(_train, sorted(D_SAE, key=lambda site: -D_SAE[site])):
        pass

    results = []
    for rows in in_processes(_publish, D_SAE):
        results.extend(rows)
        for row in rows:
            print(json.dumps(row), flush=True)
    return results


def in_processes(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator:
    """What a function returns for every item; each process has one thread.

    A core that works alone waits for no other.
    """
    with ProcessPoolExecutor(
        N_PROCESSES,
        mp_context=get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        yield from pool.map(function, items)


def collect(n_tokens: int) -> None:
    """Collect the activations of so many tokens, unless they are there."""
    jobs = [(part, n_tokens // N_PROCESSES) for part in range(N_PROCESSES)]
    for _ in in_processes(_collect, jobs):
        pass


def _collect(job: tuple[int, int]) -> None:
    """Collect the activations of every ``N_PROCESSES``-th document."""
    part, n_tokens = job

    def documents() -> Iterator[str]:
        for number, text in enumerate(corpus_texts("debian-train")):
            if number % N_PROCESSES == part:
                yield text

    model, tokenizer = load_folder(prepare_bundled())
    cache_activations(
        model,
        TextRows(documents, tokenizer, context=CONTEXT),
        list(D_SAE),
        folder_of_part(part),
        n_tokens=n_tokens,
        dtype="bfloat16",
        model_name="google/gemma-3-270m",
        progress=part == 0,
    )


def _train(site: str) -> None:
    """Train the SAE of a site, as a run in the cache folder."""
    if (_run_of(site) / "sae").exists():
        return
    config = replace(CONFIG, d_sae=D_SAE[site])
    metric = metric_of(site)
    sle.train(activation_stream(site), config, _run_of(site), metric=metric)


def metric_of(site: str, share: float = SHARE) -> ErrorMetric:
    """The metric of errors at a site."""
    model, tokenizer = load_folder(prepare_bundled())
    rows = spread_beginnings("debian-train", tokenizer, N_METRIC_ROWS)
    return fisher_metric(model, rows, site, share=share, progress=False)


def activation_stream(site: str, n_tokens: int = N_TOKENS) -> TensorStream:
    """Activations in memory, once in random order."""
    return TensorStream(
        {site: _activations(site, n_tokens)},
        # Outliers were shrunk when they were collected.
        shrink=False,
        model_name="google/gemma-3-270m",
        excludes_special_tokens=True,
    )


def _publish(site: str) -> list[dict[str, Any]]:
    """Write the SAE of a site into the package, and measure what was written."""
    folder = Path(demo.__file__).with_name("saes") / site
    trained = sle.SAE.from_pretrained(_run_of(site) / "sae", folded=False)
    trained.save_pretrained(folder, dtype="bfloat16")

    sae = sle.SAE.from_pretrained(folder)
    tables = measured(sae)
    _write_card(folder, sae, tables)
    return [
        {"site": site, "text": name, **_numbers(table)}
        for name, table in tables.items()
    ]


def measured(sae: sle.SAE, ks: Sequence[int] = KS) -> dict[str, Any]:
    """Tables of every held-out text, over values of k."""
    model, tokenizer = load_folder(prepare_bundled())
    tables = {}
    for name in HELD_OUT:
        # One position in four: the unembedding of 262,144 words is most of the work.
        tables[name] = sle.sweep_k(
            model,
            beginnings(corpus_texts(name), tokenizer, N_SCORED_ROWS),
            sae,
            ks,
            score=slice(0, None, 4),
            progress=False,
        )
    return tables


def _activations(site: str, n_tokens: int) -> Float[Tensor, "token d_model"]:
    """What was collected at a site first, without a second copy of it."""
    caches = [ActivationCache(folder_of_part(part)) for part in range(N_PROCESSES)]
    n_tokens = min(n_tokens, sum(cache.n_tokens for cache in caches))
    values = torch.empty(n_tokens, caches[0].widths[site], dtype=caches[0].dtype)
    end = 0
    # The shards of all processes in turn, since each has documents of its own.
    shards = zip_longest(*(zip(repeat(cache), cache.shards) for cache in caches))
    for cache, shard in filter(None, chain.from_iterable(shards)):
        part = cache.open_shard(shard, [site])[site][: n_tokens - end]
        values[end : end + len(part)] = part
        end += len(part)
    return values


def _folder() -> Path:
    return cache_folder() / "bundled-saes"


def _run_of(site: str) -> Path:
    return _folder() / site


def folder_of_part(part: int) -> Path:
    """Where the activations of one of the processes are."""
    return _folder() / f"activations-{part}"


def _numbers(table: Any) -> dict[str, dict[int, float]]:
    return {
        column: dict(zip(KS, table[column], strict=True))
        for column in ("fvu", "ce_recovered")
    }


def _write_card(folder: Path, sae: sle.SAE, tables: dict[str, Any]) -> None:
    """Write the tables of an SAE, a picture of them and a card beside it."""
    (block,) = [b for b, site in DEMO_SAES.items() if site == sae.config.hook_name]
    title = f"{sae.config.hook_name}, on text of two kinds"
    results = save_results(folder, tables, title=title)
    facts = {
        "Text": "documentation, fiction, dictionaries and more, from Debian's packages",
        "Tokens": f"{N_TOKENS:,}, once",
        "Settings": f"batches of {CONFIG.batch_size}, learning rate {CONFIG.lr}, "
        "otherwise the defaults of TrainConfig",
        "Errors": f"{SHARE:.0%} by the Fisher information of the model's predictions",
        "Made by": "python -m benchmarks bundled_saes",
    }
    card = model_card(
        sae,
        loading=_LOADING.format(block=block),
        table=tables["fortunes"],
        training=facts,
        picture=results.picture.name,
    )
    with replacing(folder / "README.md") as temporary:
        Path(temporary).write_text(card, encoding="utf-8")
