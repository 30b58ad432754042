"""``sae-lens-ext pretrain``: train language models of one size on one text.

    sae-lens-ext pretrain --kernel rebased based attention --text my_texts

leaves, in ``--out``: a folder per kernel that ``transformers`` loads, with its
tokenizer and the loss of every step; ``results.json`` and ``results.csv``; the tokens.
The same command goes on where it was interrupted, and with another kernel adds that
one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro
from transformers.utils.logging import disable_progress_bar

from sae_lens_ext.based.config import ATTENTION, FEATURE_MAPS
from sae_lens_ext.cli.outcome import echo, exit_code
from sae_lens_ext.cli.parsing import (
    default_of,
    fields_of,
    not_empty,
    option_names,
    parse,
)
from sae_lens_ext.experiments.pretraining.compare import compare_kernels
from sae_lens_ext.experiments.pretraining.config import PretrainConfig, TextConfig
from sae_lens_ext.experiments.pretraining.perplexity import Recall, perplexity

_KERNEL = tyro.conf.arg(
    metavar="KERNEL [KERNEL ...]",
    help=f"Kernels to compare, of {', '.join((*FEATURE_MAPS, ATTENTION))}.",
)
_RECALL: Recall = default_of(perplexity, "recall")


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """Kernels are compared in models of one size, on held-out text."""

    kernel: Annotated[tuple[str, ...], _KERNEL] = ("rebased", "based", ATTENTION)
    recall: Recall = _RECALL
    """What the table counts as recall (AR)."""
    device: str = default_of(compare_kernels, "device")
    """Device to train on."""
    checkpoint_every: int = default_of(compare_kernels, "checkpoint_every")
    """Steps between checkpoints."""
    out: Path = Path("runs/pretrain")
    """Folder of the results, from which the same command goes on."""
    progress: bool = True
    """Show progress bars."""


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """The options of the command."""

    comparison: ComparisonOptions = field(default_factory=ComparisonOptions)
    model: Annotated[Any, fields_of(PretrainConfig)]
    """The shape of the models and how they are trained."""
    text: Annotated[Any, fields_of(TextConfig)]
    """The text to train on and the text to test on."""

    def configs(self) -> tuple[PretrainConfig, TextConfig]:
        """The configs, checked.

        Raises:
            InvalidArgument: one or more fields are invalid.
        """
        return PretrainConfig(**vars(self.model)), TextConfig(**vars(self.text))


# Column of the results -> its heading and format in the printed table.
_COLUMNS = {
    "kernel": ("kernel", "{}"),
    "layers": ("layers", "{}"),
    "intermediate_size": ("MLP", "{}"),
    "parameters": ("parameters", "{}"),
    "size": ("of ReBased", "{:.4f}"),
    "perplexity": ("all", "{:.3f}"),
    "perplexity_recall": ("AR", "{:.3f}"),
    "perplexity_other": ("other", "{:.3f}"),
    "recall_share": ("AR share", "{:.3f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command and return its exit code."""
    options = options_from(arguments)
    out = options.comparison.out
    return exit_code(
        lambda: _compare(options),
        options=option_names(PretrainOptions),
        goes_on_from=lambda: _last_state(out),
    )


def _last_state(out: Path) -> str | None:
    """What an interrupted command has left to go on from."""
    if any(out.glob("*.checkpoint.safetensors")):
        return f"the last checkpoint in {out}"
    has_tokens = (out / "tokens" / "tokens.json").exists()
    return f"the tokens in {out / 'tokens'}" if has_tokens else None


def options_from(arguments: Sequence[str] | None) -> PretrainOptions:
    """The options of the command; see ``parse``."""
    return parse(PretrainOptions, arguments, "pretrain", repeatable=("--kernel",))


def _compare(options: PretrainOptions) -> None:
    # The bars of transformers for writing files would stand between these.
    disable_progress_bar()
    comparison = options.comparison
    config, text = options.configs()

    results = compare_kernels(
        not_empty(comparison.kernel, "--kernel"),
        comparison.out,
        config,
        text,
        device=comparison.device,
        checkpoint_every=comparison.checkpoint_every,
        progress=comparison.progress,
    )

    echo(f"perplexity of held-out text; AR by --recall {comparison.recall}")
    echo(_as_text(results, comparison.recall))
    echo(f"{comparison.out / 'results.json'} and results.csv written")


def _as_text(results: Any, recall: str) -> str:
    shown = results[results["recall"] == recall]
    table = pd.DataFrame()
    for column, (heading, form) in _COLUMNS.items():
        table[heading] = [
            "-" if pd.isna(value) else form.format(value) for value in shown[column]
        ]
    return table.to_string(index=False)
