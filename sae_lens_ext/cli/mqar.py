"""``sae-lens-ext mqar``: train models to recall, tabulate and draw how well they do."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff

from sae_lens_ext import _arguments as checks
from sae_lens_ext.based.config import ATTENTION, FEATURE_MAPS
from sae_lens_ext.cli.outcome import echo, exit_code
from sae_lens_ext.cli.parsing import (
    default_of,
    fields_of,
    not_empty,
    option_names,
    parse,
)
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.experiments.recall.grid import grid, train_grid
from sae_lens_ext.experiments.recall.recipe import Recipe
from sae_lens_ext.experiments.recall.results import at_best_lr, differences, summary
from sae_lens_ext.experiments.recall.saved_models import model_folder
from sae_lens_ext.experiments.recall.task import MQAR
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.viz.recall import plot_recall

_RECIPE = fields_of(
    Recipe,
    # Of these the command takes several values; see GridOptions.
    without=("kernel", "lr", "seed"),
    texts={
        "train_examples": "Distinct sequences to train on, of each number of pairs; "
        "0 draws new ones for every step."
    },
)
_KERNEL = tyro.conf.arg(
    metavar="KERNEL [KERNEL ...]",
    help=f"Kernels to compare, of {', '.join((*FEATURE_MAPS, ATTENTION))}.",
)
_LR = tyro.conf.arg(metavar="FLOAT [FLOAT ...]")


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """Every kernel is trained at every learning rate with every seed."""

    kernel: Annotated[tuple[str, ...], _KERNEL] = ("based", "rebased")
    lr: Annotated[tuple[float, ...], _LR] = (Recipe.lr,)
    """Peak learning rates; each kernel counts at its best."""
    seeds: int = 5
    """Number of seeds."""
    first_seed: int = Recipe.seed
    """The first seed; the others follow it."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where models are trained, and where results go."""

    jobs: int = default_of(train_grid, "jobs")
    """Models to train at a time, with one thread each."""
    device: str = default_of(train_grid, "device")
    """Device to train on."""
    save: FlagCreatePairsOff[bool] = False
    """Keep every trained model in OUT/models."""
    out: Path = Path("runs/mqar")
    """Folder for mqar.csv, from which a later command goes on, and mqar.png."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True, kw_only=True)
class MqarOptions:
    """The options of the command."""

    grid: GridOptions = field(default_factory=GridOptions)
    task: Annotated[Any, fields_of(MQAR)]
    """The task; the defaults are the published ones."""
    recipe: Annotated[Any, _RECIPE]
    """The models and their training; the defaults are the published ones."""
    output: OutputOptions = field(default_factory=OutputOptions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command and return its exit code."""
    repeatable = ("--kernel", "--lr")
    options = parse(MqarOptions, arguments, "mqar", repeatable=repeatable)
    table = options.output.out / "mqar.csv"
    return exit_code(
        lambda: _compare(options),
        options=option_names(MqarOptions),
        goes_on_from=lambda: table if table.exists() else None,
    )


def _compare(options: MqarOptions) -> None:
    recipe = {**vars(options.recipe)}
    recipe["train_examples"] = recipe["train_examples"] or None
    output = options.output

    n_seeds = checks.positive_int(options.grid.seeds, "seeds")
    first_seed = checks.integer(options.grid.first_seed, "first_seed", at_least=0)
    compare_recall(
        MQAR(**vars(options.task)),
        Recipe(**recipe),
        not_empty(options.grid.kernel, "--kernel"),
        not_empty(options.grid.lr, "--lr"),
        range(first_seed, first_seed + n_seeds),
        output.out,
        save=output.save,
        jobs=output.jobs,
        device=output.device,
        progress=output.progress,
    )


def compare_recall(
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
    """Train the models that are missing, print the table, and draw the figure.

    Args:
        task: what the models learn.
        base: how they are trained; ``kernels``, ``lrs`` and ``seeds`` replace its own.
        kernels: kernels to compare.
        lrs: learning rates to train each of them with.
        seeds: seeds to train each of those with.
        out: folder for ``mqar.csv`` and ``mqar.png``.
        save: whether to keep every trained model in ``out/models``.
        jobs: how many models to train at a time.
        device: where to train.
        progress: whether to show a progress bar.
    """
    if out.exists() and not out.is_dir():
        raise InvalidArgument(f"{out} is a file; give a folder to write to with --out")
    table = out / "mqar.csv"
    picture = out / "mqar.png"
    models = out / "models" if save else None

    recipes = list(dict.fromkeys(grid(base, kernels, lrs, seeds)))
    results = train_grid(
        task,
        recipes,
        table,
        models=models,
        jobs=jobs,
        device=device,
        progress=progress,
    )

    title = _title(task, base)
    echo(f"recall of {title}; the best learning rate of each kernel")
    echo(_as_text(results))

    with replacing(picture) as temporary:
        figure = plot_recall(at_best_lr(results), title=title)
        figure.savefig(temporary, format="png", dpi=120)
    echo(f"wrote {table} and {picture}")

    if models is not None:
        strongest = max(recipes, key=lambda recipe: _accuracy(results, recipe))
        name = model_folder(models, strongest, task).name
        echo(f"{len(recipes)} models are in {models}; the best is {name}")


def _title(task: MQAR, base: Recipe) -> str:
    title = f"{task.pairs} pairs in {task.seq_len} tokens, d_model {base.d_model}"
    if base.train_seq_len not in (None, task.seq_len):
        title += f", trained on {base.train_seq_len} tokens"
    return title


def _as_text(results: Any) -> str:
    """The table of kernels, how they differ, and which models diverged."""
    table = summary(results).to_string(
        index=False, float_format=lambda number: f"{number:.4g}", na_rep=""
    )
    lines = [table]
    for pair in differences(results).to_dict(orient="records"):
        # Of one seed no standard error is known.
        errors = "" if math.isnan(pair["t"]) else f", {pair['t']:+.1f} standard errors"
        names = f"{pair['second']} less {pair['first']}"
        lines.append(f"{names}: {pair['difference']:+.3f}{errors}")

    diverged: Any = results[results["diverged"]]
    lines += [
        f"{line['kernel']} with lr {line['lr']:g} and seed {line['seed']} diverged: "
        "what it answers at the end counts as wrong"
        for line in diverged.to_dict(orient="records")
    ]
    return "\n".join(lines)


def _accuracy(results: Any, recipe: Recipe) -> float:
    is_of_recipe = (
        (results["kernel"] == recipe.kernel)
        & (results["lr"] == recipe.lr)
        & (results["seed"] == recipe.seed)
    )
    return float(results[is_of_recipe]["accuracy"].iloc[0])
