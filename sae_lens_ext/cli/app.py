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
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
) -> None:
    """One sparse autoencoder, every k."""
    if version:
        typer.echo(sae_lens_ext.__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for sweep.csv, frontier.png and report.html.")
    ] = Path("runs/demo"),
    sentence: Annotated[
        str, typer.Option(help="Text whose features are shown.")
    ] = SENTENCE,
    rows: Annotated[
        int, typer.Option(min=1, help="Held-out rows of 128 tokens to sweep over.")
    ] = 8,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train the SAE again even if one is kept.")
    ] = False,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Train an SAE on a small real model, splice it in at every k, and report."""
    from sae_lens_ext.demo.walkthrough import run_demo

    run_demo(
        out,
        sentence=sentence,
        n_rows=rows,
        retrain=retrain,
        progress=progress,
        echo=typer.echo,
    )


@app.command()
def mqar(
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            help="Kernel to train, or attention; may be given again. Default: based, rebased."
        ),
    ] = None,
    seq_len: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 256,
    pairs: Annotated[
        int, typer.Option(help="Keys and values in it; each key is asked for once.")
    ] = 32,
    vocab_size: Annotated[
        int, typer.Option(help="Keys, values and the filler.")
    ] = 8192,
    power_a: Annotated[
        float,
        typer.Option(
            help="Where questions are asked: 1 for anywhere; the smaller, the earlier."
        ),
    ] = 0.01,
    random_non_queries: Annotated[
        bool,
        typer.Option(
            "--random-non-queries",
            help="Fill the places where nothing is asked with any tokens.",
        ),
    ] = False,
    d_model: Annotated[int, typer.Option(help="Width of the residual stream.")] = 64,
    heads: Annotated[int, typer.Option(help="Of linear attention.")] = 12,
    feature_dim: Annotated[int, typer.Option(help="Of its queries and keys.")] = 16,
    learned_positions: Annotated[
        bool, typer.Option(help="Whether models have them.")
    ] = True,
    init_std: Annotated[
        float, typer.Option(help="Standard deviation of weights before training.")
    ] = 0.02,
    lr: Annotated[
        list[float] | None,
        typer.Option(
            help="Highest learning rate; may be given again: each kernel counts at its best. Default: 3e-3."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 42,
    steps: Annotated[
        int, typer.Option(min=1, help="Of the optimizer, at most: 99 % ends a run.")
    ] = 12500,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences in a step.")] = 512,
    weight_decay: Annotated[float, typer.Option(help="Of the optimizer.")] = 0.1,
    fewest_pairs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train on as few pairs too, twice as many, and so on. Default: on --pairs alone.",
        ),
    ] = None,
    train_seq_len: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of a sequence to train on. Default: --seq-len."
        ),
    ] = None,
    train_examples: Annotated[
        int,
        typer.Option(
            min=0,
            help="Different sequences to train on; 0 makes new ones for every step.",
        ),
    ] = 100_000,
    test_examples: Annotated[
        int, typer.Option(min=1, help="Other sequences to test on.")
    ] = 3000,
    evaluations: Annotated[
        int, typer.Option(min=1, help="How often to test; the best test counts.")
    ] = 64,
    jobs: Annotated[
        int,
        typer.Option(min=1, help="Models to train at a time, with one thread each."),
    ] = 1,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
    save: Annotated[
        bool, typer.Option("--save", help="Keep every trained model in OUT/models.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for mqar.csv, which a later run goes on from, and mqar.png."
        ),
    ] = Path("runs/mqar"),
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train small models to recall, and compare kernels of linear attention. The defaults are the published task and training."""
    from sae_lens_ext.cli.mqar import run_mqar
    from sae_lens_ext.experiments.recall import MQAR, Recipe

    task = MQAR(
        seq_len=seq_len,
        pairs=pairs,
        vocab_size=vocab_size,
        power_a=power_a,
        random_non_queries=random_non_queries,
    )
    base = Recipe(
        d_model=d_model,
        heads=heads,
        feature_dim=feature_dim,
        learned_positions=learned_positions,
        init_std=init_std,
        fewest_pairs=fewest_pairs,
        train_seq_len=train_seq_len,
        steps=steps,
        batch_size=batch_size,
        weight_decay=weight_decay,
        train_examples=train_examples or None,
        test_examples=test_examples,
        evaluations=evaluations,
    )
    kernels, lrs, numbers = (
        kernel or ["based", "rebased"],
        lr or [3e-3],
        range(first_seed, first_seed + seeds),
    )
    run_mqar(
        task,
        base,
        kernels,
        lrs,
        numbers,
        out,
        save=save,
        jobs=jobs,
        device=device,
        progress=progress,
    )
