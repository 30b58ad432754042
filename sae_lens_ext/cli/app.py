"""The commands and their options."""

from pathlib import Path
from typing import Annotated

import typer

import sae_lens_ext

# The demo's SAE is trained on documentation, so its features are at home in documentation.
SENTENCE = "If the key is not in the dictionary, a KeyError is raised; if the index is out of range, an IndexError is"

app = typer.Typer(
    name="sae-lens-ext",
    help="One sparse autoencoder, every k.",
    no_args_is_help=True,
    add_completion=False,
    # Errors of ours are one line, printed by main; a traceback that is left is a bug, and plain ones are the easiest to report.
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """One sparse autoencoder, every k."""
    if version:
        typer.echo(sae_lens_ext.__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for sweep.csv, frontier.png and report.html.")] = Path("runs/demo"),
    sentence: Annotated[str, typer.Option(help="Text whose features are shown.")] = SENTENCE,
    rows: Annotated[int, typer.Option(min=1, help="Held-out rows of 128 tokens to sweep over.")] = 8,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train the SAE again even if one is kept.")] = False,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Train an SAE on a small real model, splice it in at every k, and report."""
    from sae_lens_ext.cli.demo import run_demo

    run_demo(out, sentence=sentence, n_rows=rows, retrain=retrain, progress=progress)


@app.command()
def mqar(
    kernel: Annotated[
        list[str] | None, typer.Option(help="Kernel to train, or attention; may be given again. Default: based, rebased.")
    ] = None,
    seq_len: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 256,
    pairs: Annotated[int, typer.Option(help="Keys and values in it; each key is asked for once.")] = 32,
    vocab_size: Annotated[int, typer.Option(help="Keys, values and the filler.")] = 8192,
    random_non_queries: Annotated[bool, typer.Option(help="Fill the places where nothing is asked with any tokens.")] = False,
    d_model: Annotated[int, typer.Option(help="Width of the residual stream.")] = 64,
    heads: Annotated[int, typer.Option(help="Of linear attention.")] = 12,
    feature_dim: Annotated[int, typer.Option(help="Of its queries and keys.")] = 16,
    lr: Annotated[list[float] | None, typer.Option(help="Highest learning rate; may be given again. Default: 3e-3.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 42 on.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Of the optimizer.")] = 12500,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences in a step.")] = 512,
    train_examples: Annotated[int, typer.Option(help="Different sequences to train on; 0 makes new ones for every step.")] = 100_000,
    jobs: Annotated[int, typer.Option(min=1, help="Models to train at a time, with one thread each.")] = 1,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for mqar.csv, which a later run goes on from, and mqar.png.")] = Path("runs/mqar"),
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train small models to recall, and compare kernels of linear attention."""
    from sae_lens_ext.based.mqar import MQAR, Recipe
    from sae_lens_ext.cli.mqar import run_mqar

    task = MQAR(seq_len=seq_len, pairs=pairs, vocab_size=vocab_size, random_non_queries=random_non_queries)
    base = Recipe(
        d_model=d_model,
        heads=heads,
        feature_dim=feature_dim,
        steps=steps,
        batch_size=batch_size,
        train_examples=train_examples or None,
    )
    run_mqar(
        task, base, kernel or ["based", "rebased"], lr or [3e-3], range(42, 42 + seeds), out, jobs=jobs, device=device, progress=progress
    )
