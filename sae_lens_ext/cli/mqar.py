"""``sae-lens-ext mqar``: train models to recall, tabulate and draw how well each kernel does."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import typer

from sae_lens_ext.based.mqar import MQAR, Recipe
from sae_lens_ext.based.mqar_grid import grid, run_grid, summary
from sae_lens_ext.errors import InvalidArgument
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
    jobs: int,
    device: str,
    progress: bool,
) -> None:
    """Train what is missing, print the table, write the figure."""
    if out.exists() and not out.is_dir():
        raise InvalidArgument(f"{out} is a file; give a folder to write to with --out")
    results = run_grid(task, grid(base, kernels, lrs, seeds), out / "mqar.csv", jobs=jobs, device=device, progress=progress)
    lines = summary(results)
    typer.echo(f"recall of {task.pairs} pairs in {task.seq_len} tokens, d_model {base.d_model}; the best learning rate of each kernel")
    typer.echo(lines.to_string(index=False, float_format=lambda number: f"{number:.4g}"))
    figure = plot_recall(results, title=f"{task.pairs} pairs in {task.seq_len} tokens")
    with replacing(out / "mqar.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    typer.echo(f"{out / 'mqar.csv'} and {out / 'mqar.png'} written")
