"""``python -m sae_lens_ext.based.pretrain``: train Based, ReBased and softmax attention of one size on one text, and compare them.

    python -m sae_lens_ext.based.pretrain --kernel rebased based attention --text my_texts --out runs/pretrain

leaves, in ``--out``: a folder per kernel that ``transformers`` loads, with its tokenizer and the loss of every step; ``results.json`` and
``results.csv``; the tokens. The same command goes on where it was interrupted, and with another kernel adds that one.
"""

import argparse
import ast
import inspect
import itertools
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from transformers.utils.logging import disable_progress_bar

from sae_lens_ext.based.config import ATTENTION, FEATURE_MAPS
from sae_lens_ext.errors import SaeLensExtError
from sae_lens_ext.experiments.pretraining.compare import compare_kernels
from sae_lens_ext.experiments.pretraining.config import PretrainConfig, TextConfig
from sae_lens_ext.experiments.pretraining.perplexity import Recall

_KERNELS = ("rebased", "based", ATTENTION)


def _explanations(config: type) -> dict[str, str]:
    """The sentence under each field of a config class, by the field's name."""
    definition: Any = ast.parse(inspect.getsource(config)).body[0]
    explanations = {}
    for field, literal in itertools.pairwise(definition.body):
        match field, literal:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(text))
            ):
                explanations[name] = " ".join(text.split())
    return explanations


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sae_lens_ext.based.pretrain",
        description="Train language models with linear attention and with softmax attention, of one size, on one text, and compare them.",
    )
    known = ", ".join((*FEATURE_MAPS, ATTENTION))
    parser.add_argument(
        "--kernel",
        nargs="+",
        action="extend",
        metavar="KERNEL",
        help=f"Of {known}. Default: {' '.join(_KERNELS)}.",
    )
    explanations = _explanations(PretrainConfig) | _explanations(TextConfig)
    for option in (*fields(PretrainConfig), *fields(TextConfig)):
        default = "" if option.default is None else f" Default: {option.default}."
        # The class that a field holds beside None.
        kind: Any = (get_args(option.type) or (option.type,))[0]
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            type=kind,
            default=option.default,
            help=explanations[option.name] + default,
            metavar=kind.__name__.upper(),
        )
    parser.add_argument(
        "--recall",
        choices=get_args(Recall),
        default="token",
        help="What the table counts as recall (AR). Default: token.",
    )
    parser.add_argument("--device", default="cpu", help="Where to train. Default: cpu.")
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        default=200,
        metavar="INT",
        help="Steps between checkpoints. Default: 200.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/pretrain"),
        help="Folder of the run. Default: runs/pretrain.",
    )
    parser.add_argument("--no-progress", action="store_true", help="Show no bars.")
    return parser


_COLUMNS = {
    "kernel": "kernel",
    "layers": "layers",
    "intermediate_size": "MLP",
    "parameters": "parameters",
    "size": "of ReBased",
    "perplexity": "all",
    "perplexity_recall": "AR",
    "perplexity_other": "other",
    "recall_share": "AR share",
    "tokens_per_second": "tokens/s",
}


def _table(results: Any, recall: str) -> str:
    shown = results[results["recall"] == recall][list(_COLUMNS)].rename(
        columns=_COLUMNS
    )
    formats = {
        "of ReBased": "{:.4f}",
        "all": "{:.3f}",
        "AR": "{:.3f}",
        "other": "{:.3f}",
        "AR share": "{:.3f}",
        "tokens/s": "{:,.0f}",
    }
    for name, form in formats.items():
        shown[name] = [
            "-" if pd.isna(value) else form.format(value) for value in shown[name]
        ]
    return shown.to_string(index=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code. A failure is one line on standard error, and 2."""
    given = vars(_parser().parse_args(arguments))
    # Its bars for writing files would stand between ours.
    disable_progress_bar()
    try:
        results = compare_kernels(
            given["kernel"] or _KERNELS,
            given["out"],
            PretrainConfig(
                **{option.name: given[option.name] for option in fields(PretrainConfig)}
            ),
            TextConfig(
                **{option.name: given[option.name] for option in fields(TextConfig)}
            ),
            device=given["device"],
            checkpoint_every=given["checkpoint_every"],
            progress=not given["no_progress"],
        )
    except (SaeLensExtError, OSError) as error:
        sys.stderr.write(f"pretrain: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(
            f"pretrain: interrupted; the same command goes on from the last checkpoint in {given['out']}\n"
        )
        return 130
    sys.stdout.write(
        f"perplexity of held-out text; AR by --recall {given['recall']}\n{_table(results, given['recall'])}\n"
    )
    sys.stdout.write(f"{given['out'] / 'results.json'} and results.csv written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
