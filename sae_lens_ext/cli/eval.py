"""``sae-lens-ext eval``: measure one SAE or several at every k, on text of your own.

    sae-lens-ext eval --text my_texts --sae runs/first/sae
        google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82

prints the table of ``sweep_k`` for every SAE, and leaves ``sweep.csv`` and
``frontier.png`` in ``--out``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sae_lens_ext.cli.inputs import ModelOptions, TextOptions, load_sae, placed
from sae_lens_ext.cli.outcome import echo, exit_code
from sae_lens_ext.cli.parsing import make_folder, not_empty, option_names, parse
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.interventions import sweep_k
from sae_lens_ext.publishing import save_results
from sae_lens_ext.viz import sweep_as_text


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """The options of the command."""

    sae: tuple[str, ...]
    """Folders of SAEs, or hub repositories with the folder inside of them."""
    hook_name: str | None = None
    """Where to splice SAEs whose files do not say it."""
    ks: tuple[int, ...] = ()
    """Values of k; by default the powers of two up to that of the SAE."""
    rows: int = 64
    """Held-out rows of text to measure on. What is held out is what the train command
    does not train on."""
    out: Path = Path("runs/eval")
    """Folder for sweep.csv and frontier.png."""
    config: Path | None = None
    """YAML file of options; those that are typed count more."""
    progress: bool = True
    """Show progress bars."""
    model: ModelOptions = field(default_factory=ModelOptions)
    text: TextOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command and return its exit code."""
    options = parse(EvalOptions, arguments, "eval", repeatable=("--sae",))
    return exit_code(lambda: _evaluate(options), options=option_names(EvalOptions))


def _evaluate(options: EvalOptions) -> None:
    names = not_empty(options.sae, "--sae")
    if len(set(names)) < len(names):
        raise InvalidArgument("sae must not name the same SAE twice")
    make_folder(options.out)
    saes = {name: load_sae(name) for name in names}
    language_model = options.model.load(
        saes[names[0]].config.model_name, progress=options.progress
    )
    tokens = options.text.held_out_tokens(language_model.tokenizer, options.rows)

    tables = {}
    for name, sae in saes.items():
        tables[name] = sweep_k(
            language_model.model,
            tokens,
            placed(name, sae.to(language_model.device), options.hook_name),
            options.ks or None,
            progress=options.progress,
        )
        echo(f"{name}\n{sweep_as_text(tables[name])}\n")
    results = save_results(options.out, tables if len(tables) > 1 else tables[names[0]])
    echo(f"Wrote {results.table} and {results.picture}.")
