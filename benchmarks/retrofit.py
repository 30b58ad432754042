"""Can a TopK SAE be made good at every k while its features stay what they are?

On the residual stream of Gemma 3 270M after block 9:

1. Train a TopK SAE for k = 64, and a HierarchicalTopK SAE with as many tokens.
2. Retrofit the first with a fifth of its tokens (``TrainConfig.retrofit``); and, for
   comparison, train it on with HierarchicalTopK and a decoder that moves.
3. Print FVU on held-out documents at every k, the ratio to the HierarchicalTopK SAE,
   and the share of live features whose activations correlate by more than 0.95 with
   those of the TopK SAE.

The last line is what orthogonal matching pursuit reaches with the directions of
the TopK SAE: it picks features token by token with the error in view, and solves for
their activations at every k anew. An encoder with those directions can hardly do
better, and it has to use the same activations at every k.

Collecting the activations takes ten minutes on two cores. They are kept in the
package's cache folder, piece by piece, so that it can be interrupted.
"""

import json
import random
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext import feature_agreement, train
from sae_lens_ext.demo import DEMO_SITE, cache_folder
from sae_lens_ext.demo.bundled import load_folder, prepare_bundled
from sae_lens_ext.errors import FormatError
from sae_lens_ext.objectives import HierarchicalTopK, TopK
from sae_lens_ext.sae import FVU, SAE
from sae_lens_ext.text import default_documents, pack, split_documents
from sae_lens_ext.training import Activations, TrainConfig, collect_activations

KS = (4, 8, 16, 32, 64)
K = 64
D_SAE = 2048
EPOCHS = 3
# 127 tokens of text in a row of 128.
N_SHUFFLED_ROWS = 3200
N_ROWS = 1500
N_HELD_OUT_ROWS = 120
ROWS_AT_ONCE = 100
# Of the tokens that the TopK SAE is trained on.
SHARE = 1 / 5
# Every how manieth held-out token pursuit is tried on.
PURSUED_EVERY = 15

HIERARCHICAL = TrainConfig(
    d_sae=D_SAE,
    k=K,
    objective=HierarchicalTopK(),
    lr=3e-3,
    betas=(0.9, 0.999),
    apply_b_dec_to_input=True,
    epochs=EPOCHS,
)
TOPK = replace(HIERARCHICAL, objective=TopK(), decay=0.3)


def run() -> list[dict[str, Any]]:
    """Print the comparison."""
    held_out, tokens = activations()
    n_few = round(SHARE * EPOCHS * len(tokens.values))
    few = Activations(tokens.values[:n_few], DEMO_SITE, tokens.n_special)

    topk = train(tokens, TOPK, progress=False).sae
    hierarchical = train(tokens, HIERARCHICAL, progress=False).sae
    retrofit = TrainConfig.retrofit(topk, K, epochs=1)
    saes = {
        "HierarchicalTopK": hierarchical,
        "TopK": topk,
        "retrofit": train(few, retrofit, start=topk, progress=False).sae,
    }
    for lr in (1e-3, 3e-3):
        moving = replace(HIERARCHICAL, lr=lr, epochs=1)
        trained = train(few, moving, start=topk, progress=False)
        saes[f"warm start, lr {lr:g}"] = trained.sae

    expected = fvu_at(hierarchical, held_out)
    results = []
    for name, sae in saes.items():
        agreement = feature_agreement(topk, sae, held_out)
        result = row(name, fvu_at(sae, held_out), expected)
        result["features_kept"] = agreement.share_above(0.95)
        result["tokens"] = len(tokens.values) * EPOCHS
        if name not in ("TopK", "HierarchicalTopK"):
            result["tokens"] = n_few
        results.append(result)
    sample = Activations(held_out.values[::PURSUED_EVERY], DEMO_SITE)
    expected = fvu_at(hierarchical, sample)
    pursued = pursuit_fvu(topk, sample.values)
    results.append(row("pursuit, on a sample", pursued, expected))

    for result in results:
        print(json.dumps(result), flush=True)
    return results


def row(
    name: str, fvus: dict[int, float], expected: dict[int, float]
) -> dict[str, Any]:
    """A line of the table."""
    ratios = {k: fvu / expected[k] for k, fvu in fvus.items()}
    return {"name": name, "fvu": fvus, "ratio": ratios}


def activations() -> tuple[Activations, Activations]:
    """Held-out activations, and those to train on, outliers clipped."""
    folder = cache_folder() / "activations" / "retrofit-v1"
    names = [f"train-{n:03}" for n in range(N_ROWS // ROWS_AT_ONCE)]
    paths = {name: folder / f"{name}.safetensors" for name in ("held-out", *names)}
    if not all(path.exists() for path in paths.values()):
        model, tokenizer = load_folder(prepare_bundled())
        rows = _rows(tokenizer, held_out=False, n_rows=N_SHUFFLED_ROWS)
        generator = torch.Generator().manual_seed(0)
        rows = rows[torch.randperm(len(rows), generator=generator)][:N_ROWS]
        held_out = _rows(tokenizer, held_out=True, n_rows=N_HELD_OUT_ROWS)
        pieces = dict(zip(paths, (held_out, *rows.split(ROWS_AT_ONCE)), strict=True))
        for name, path in paths.items():
            if not _is_whole(path):
                collect_activations(model, pieces[name], DEMO_SITE).save(path)

    held_out, *parts = [Activations.load(path) for path in paths.values()]
    values = torch.cat([part.values for part in parts])
    n_special = sum(part.n_special for part in parts)
    train_on = Activations(values, DEMO_SITE, n_special)
    return held_out.outliers_clipped(), train_on.outliers_clipped()


def _is_whole(path: Any) -> bool:
    try:
        Activations.load(path)
    except FormatError:
        return False
    return True


def _rows(tokenizer: Any, *, held_out: bool, n_rows: int) -> Int[Tensor, "row 128"]:
    """Rows of documents in random order, since neighbours are alike."""
    documents = list(split_documents(default_documents(), held_out=held_out))
    random.Random(0).shuffle(documents)
    return pack(documents, tokenizer, n_rows=n_rows)


def fvu_at(sae: SAE, held_out: Activations) -> dict[int, float]:
    """The fraction of variance unexplained at every k."""
    fvus = {k: FVU() for k in KS}
    with torch.no_grad():
        for x in held_out.values.split(2048):
            code = sae.encode(x, max(KS))
            for k, fvu in fvus.items():
                fvu.update(x, sae.decode(code.prefix(k)))
    return {k: fvu.value() for k, fvu in fvus.items()}


@torch.no_grad()
def pursuit_fvu(sae: SAE, x: Float[Tensor, "token d_model"]) -> dict[int, float]:
    """The same for orthogonal matching pursuit with the SAE's directions.

    Activations may be negative here, which makes it no harder.

    Source: Pati et al. 1993.
    """
    rows = torch.nn.functional.normalize(sae.W_dec, dim=1)
    centred = x - sae.folded().b_dec
    fvus = {k: FVU() for k in KS}
    for part, target in zip(x.split(250), centred.split(250), strict=True):
        residual = target
        chosen = torch.empty(len(part), 0, dtype=torch.int64)
        for k in range(1, max(KS) + 1):
            scores = (residual @ rows.T).scatter(1, chosen, -torch.inf)
            chosen = torch.cat([chosen, scores.argmax(1, keepdim=True)], dim=1)
            used = rows[chosen]
            # A little of the identity, where directions are almost the same.
            gram = used @ used.mT + 1e-6 * torch.eye(k)
            values = torch.linalg.solve(gram, used @ target.unsqueeze(2))
            residual = target - (values * used).sum(1)
            if k in fvus:
                fvus[k].update(part, part - residual)
    return {k: fvu.value() for k, fvu in fvus.items()}
