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
