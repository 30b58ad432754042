"""``sae-lens-ext demo``: the whole of this package once, on a real model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_lens_ext.cli.outcome import echo, exit_code
from sae_lens_ext.cli.parsing import make_folder, option_names, parse

SENTENCE = (
    "If the key is not in the dictionary, a KeyError is raised; if the index is out of "
    "range, an IndexError is"
)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The options of the command."""

    out: Path = Path("runs/demo")
    """Folder for sweep.csv, frontier.png and report.html."""
    block: int = 9
    """Which SAE to show: the one for the residual stream after block 5, 9 or 13."""
    sentence: str = SENTENCE
    """Text whose features are shown."""
    rows: int = 8
    """Held-out rows of 128 tokens to sweep over."""
    progress: bool = True
    """Show progress bars."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command and return its exit code."""
    options = parse(DemoOptions, arguments, "demo")
    return exit_code(
        lambda: _demonstrate(options),
        options=option_names(DemoOptions),
        goes_on_from=lambda: "what the cache holds",
    )


def _demonstrate(options: DemoOptions) -> None:
    # Here, so that --help does not wait for torch.
    from sae_lens_ext import _arguments as arguments
    from sae_lens_ext.demo.walkthrough import walk_through

    arguments.positive_int(options.rows, "rows")
    # Minutes before the first file is written to it.
    make_folder(options.out)
    walk_through(
        options.out,
        block=options.block,
        sentence=options.sentence,
        n_rows=options.rows,
        progress=options.progress,
        echo=echo,
    )
