"""Errors by the Fisher information: ``python -m benchmarks fisher_share``.

SAEs of Gemma 3 270M after block 9, each trained on the first million of the tokens of
``python -m benchmarks bundled_saes``, with the Fisher information as several shares of
the metric of errors; 0 is the plain squared error. Measured on text of two kinds that
none was trained on. On two cores it takes a quarter of an hour, and before that, where
the activations are not there yet, their collection.

Printed first: how much of the variance lies along the direction that has most of it,
and how sensitive the predictions are to it, as a share of the mean over directions.
"""

from typing import Any

import torch

import sae_lens_ext as sle
from benchmarks.bundled_saes import (
    CONFIG,
    SHARE,
    activation_stream,
    collect,
    in_processes,
    measured,
    metric_of,
)
from sae_lens_ext.demo import prepare_bundled

SITE = "blocks.9.hook_resid_post"
N_TOKENS = 1_000_000
KS = (8, 32, 64)
SHARES = (0.0, 0.5, 0.8, 0.95)


def run() -> dict[str, Any]:
    """Train and measure one SAE per share."""
    prepare_bundled()
    collect(N_TOKENS)
    direction = _largest_direction()
    print(direction, flush=True)
    results = []
    for rows in in_processes(_trained, SHARES):
        results.extend(rows)
        for row in rows:
            print(row, flush=True)
    return {"direction": direction, "saes": results}


def _largest_direction() -> dict[str, float]:
    """The direction of the largest variance: its share of it, and its sensitivity."""
    stream = activation_stream(SITE, N_TOKENS // 20)
    x = stream.next_batch(N_TOKENS // 20)[SITE].double()
    variances, directions = torch.linalg.eigh(torch.cov(x.T))
    metric = metric_of(SITE)
    d_model = len(variances)
    # Without the identity in it, a multiple of the Fisher information.
    fisher = metric.matrix - (1 - SHARE) * torch.eye(d_model, dtype=torch.float64)
    along = directions[:, -1] @ fisher @ directions[:, -1]
    return {
        "variance_share": float(variances[-1] / variances.sum()),
        "sensitivity_of_mean": float(along / (fisher.trace() / d_model)),
    }


def _trained(share: float) -> list[dict[str, Any]]:
    metric = metric_of(SITE, share) if share > 0 else None
    stream = activation_stream(SITE, N_TOKENS)
    trained = sle.train(stream, CONFIG, metric=metric, progress=False)
    return [
        {
            "share": share,
            "text": name,
            "k": k,
            "fvu": row["fvu"],
            "ce_recovered": row["ce_recovered"],
            "kl": row["kl"],
            "dead": trained.dead,
        }
        for name, table in measured(trained.sae, KS).items()
        for k, row in zip(KS, table.to_dict(orient="records"), strict=True)
    ]
