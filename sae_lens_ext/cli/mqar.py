"""``sae-lens-ext mqar``: train models to recall, tabulate and draw how well each kernel does."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.experiments.recall.grid import grid, train_grid
from sae_lens_ext.experiments.recall.recipe import Recipe
from sae_lens_ext.experiments.recall.results import at_best_lr, differences, summary
from sae_lens_ext.experiments.recall.saved_models import model_folder
from sae_lens_ext.experiments.recall.task import MQAR
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.viz.recall import plot_recall


def run_mqar(
    task: MQAR,
    base: Recipe,
    kernels: Sequence[str],
    lrs: Sequence[float],
    seeds: Iterable[int],
    out: Path,
    *,
    save: bool,
    jobs: int,
    device: str,
    progress: bool,
) -> None:
    """Train what is missing, print the table, write the figure."""
    if out.exists() and not out.is_dir():
        raise InvalidArgument(f"{out} is a file; give a folder to write to with --out")
    recipes, models = (
        list(dict.fromkeys(grid(base, kernels, lrs, seeds))),
        out / "models" if save else None,
    )
    try:
        results = train_grid(
            task,
            recipes,
            out / "mqar.csv",
            models=models,
            jobs=jobs,
            device=device,
            progress=progress,
        )
    except KeyboardInterrupt:
        typer.echo(
            f"stopped; what is done is in {out / 'mqar.csv'}, and the same command goes on from there",
            err=True,
        )
        raise
    title = f"{task.pairs} pairs in {task.seq_len} tokens, d_model {base.d_model}"
    if base.train_seq_len not in (None, task.seq_len):
        title += f", trained on {base.train_seq_len} tokens"
    typer.echo(f"recall of {title}; the best learning rate of each kernel")
    typer.echo(_table(summary(results)))
    for line in differences(results).to_dict(orient="records"):
        errors = "" if math.isnan(line["t"]) else f", {line['t']:+.1f} standard errors"
        typer.echo(
            f"{line['second']} less {line['first']}: {line['difference']:+.3f}{errors}"
        )
    diverged: Any = results[results["diverged"]]
    for line in diverged.to_dict(orient="records"):
        typer.echo(
            f"{line['kernel']} with lr {line['lr']:g} and seed {line['seed']} diverged: what it answers at the end counts as wrong"
        )
    best = at_best_lr(results)
    with replacing(out / "mqar.png") as temporary:
        figure = plot_recall(best, title=title)
        figure.savefig(temporary, format="png", dpi=120)
    typer.echo(f"wrote {out / 'mqar.csv'} and {out / 'mqar.png'}")
    if models is not None:
        strongest = max(recipes, key=lambda recipe: _accuracy(results, recipe))
        typer.echo(
            f"{len(recipes)} models are in {models}; the best is {model_folder(models, strongest, task).name}"
        )


def _table(lines: Any) -> str:
    return lines.to_string(
        index=False, float_format=lambda number: f"{number:.4g}", na_rep=""
    )


def _accuracy(results: Any, recipe: Recipe) -> float:
    is_it = (
        (results["kernel"] == recipe.kernel)
        & (results["lr"] == recipe.lr)
        & (results["seed"] == recipe.seed)
    )
    return float(results[is_it]["accuracy"].iloc[0])
