"""Make the SAEs that come with the package: ``python -m benchmarks bundled_saes``.

HierarchicalTopK SAEs for the residual stream of Gemma 3 270M after blocks 5, 9 and 13,
with the settings that ``docs/recipe.md`` ends with:

1. Collect 5 million tokens of the text of ``python -m benchmarks corpus``, at the three
   sites in one pass of the model, into the package's cache folder (20 GB). It can be
   interrupted.
2. Train the SAEs, each as a run in the cache folder that can be interrupted too.
3. Measure them on text of kinds that they were not trained on: sayings and verse
   (``fortunes``), and PostgreSQL's documentation.
4. Write them, in bfloat16, with their tables and cards into ``sae_lens_ext/demo/saes``.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import torch

import sae_lens_ext as sle
from benchmarks.corpus.packages import HELD_OUT
from sae_lens_ext import demo
from sae_lens_ext.demo import cache_folder, prepare_bundled
from sae_lens_ext.demo.bundled import load_folder
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.publishing import model_card, save_results
from sae_lens_ext.text import pack
from sae_lens_ext.training import (
    CacheStream,
    TextRows,
    TrainConfig,
    Trained,
    cache_activations,
)

D_SAE = {
    "blocks.5.hook_resid_post": 2048,
    "blocks.9.hook_resid_post": 4096,
    "blocks.13.hook_resid_post": 2048,
}
K = 64
KS = (1, 2, 4, 8, 16, 32, 64)
N_TOKENS = 5_000_000
EPOCHS = 2
N_SCORED_ROWS = 64


def run() -> list[dict[str, Any]]:
    """Make all of them, and print their tables."""
    model, tokenizer = load_folder(prepare_bundled())
    folder = cache_folder() / "bundled-saes"
    texts = _corpus("debian-train")
    cache_activations(
        model,
        TextRows(texts, tokenizer, context=128),
        list(D_SAE),
        folder / "activations",
        n_tokens=N_TOKENS,
        dtype="bfloat16",
        model_name="google/gemma-3-270m",
    )

    results = []
    for site in D_SAE:
        stream = CacheStream(folder / "activations", site, epochs=EPOCHS)
        trained = sle.train(stream, _config(site), folder / site)
        sae = trained.sae.to(torch.bfloat16)
        # Measured as it is written.
        tables = {
            name: _sweep(model, tokenizer, sae.float(), name) for name in HELD_OUT
        }
        _write(sae.to(torch.bfloat16), trained, stream.n_tokens, tables)
        for name, table in tables.items():
            results.append({"site": site, "text": name, **_numbers(table)})
            print(json.dumps(results[-1]), flush=True)
    return results


def _config(site: str) -> TrainConfig:
    return TrainConfig(
        d_sae=D_SAE[site],
        k=K,
        batch_size=1024,
        lr=3e-3,
        decay=0.8,
        apply_b_dec_to_input=False,
    )


def _corpus(name: str) -> Path:
    path = cache_folder() / "corpora" / f"{name}.jsonl.gz"
    if not path.exists():
        raise SystemExit(f"there is no {path}: run `python -m benchmarks corpus` first")
    return path


def _sweep(model: Any, tokenizer: Any, sae: sle.SAE, name: str) -> Any:
    """The table of a held-out corpus, from the beginnings of as many documents."""
    with gzip.open(_corpus(name), "rt", encoding="utf-8") as lines:
        documents = [json.loads(line)["text"] for line in lines][:N_SCORED_ROWS]
    rows = [pack([text], tokenizer, n_rows=1) for text in documents]
    every_fourth = slice(0, None, 4)
    return sle.sweep_k(
        model, torch.cat(rows), sae, KS, score=every_fourth, progress=False
    )


def _numbers(table: Any) -> dict[str, dict[int, float]]:
    return {
        column: dict(zip(KS, table[column], strict=True))
        for column in ("fvu", "ce_recovered")
    }


def _write(
    sae: sle.SAE, trained: Trained, n_tokens: int | None, tables: dict[str, Any]
) -> None:
    """Write an SAE, its tables, a picture of them and a card."""
    folder = Path(demo.__file__).with_name("saes") / str(sae.config.hook_name)
    sae.save_pretrained(folder)
    results = save_results(folder, tables)
    facts = {
        "text": "documentation, fiction, dictionaries and more, from Debian's packages",
        "tokens": f"{N_TOKENS:,}, {EPOCHS} times",
        "dead features": f"{trained.dead:.1%}",
        "made by": "python -m benchmarks bundled_saes",
    }
    card = model_card(
        sae,
        table=tables["fortunes"],
        training=facts,
        picture=results.picture.name,
    )
    with replacing(folder / "README.md") as temporary:
        Path(temporary).write_text(card, encoding="utf-8")
