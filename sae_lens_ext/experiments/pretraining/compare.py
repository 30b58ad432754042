"""Several models on one text, each trained, tested and kept in one folder that a later call goes on from."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.experiments.pretraining.config import PretrainConfig, TextConfig
from sae_lens_ext.experiments.pretraining.folder import RunFolder
from sae_lens_ext.experiments.pretraining.models import (
    model_config,
    n_parameters,
    new_model,
)
from sae_lens_ext.experiments.pretraining.perplexity import (
    Recall,
    recall_mask,
    split,
    token_losses,
)
from sae_lens_ext.experiments.pretraining.text import (
    TokenRows,
    check_text,
    load_tokenizer,
    prepare_tokens,
    text_files,
)
from sae_lens_ext.experiments.pretraining.training import autocast, pretrain


def compare_kernels(
    kernels: Sequence[str],
    out: Path,
    config: PretrainConfig,
    text: TextConfig,
    *,
    device: str = "cpu",
    checkpoint_every: int = 200,
    progress: bool = True,
) -> pd.DataFrame:
    """Train what is not trained yet, test it, and keep everything in ``out``.

    Args:
        kernels: of ``FEATURE_MAPS``, or "attention".
        out: a folder of its own; ``python -m sae_lens_ext.based.pretrain`` says what it will hold.
        config: the models and their training.
        text: to train on and to test on.
        device: where.
        checkpoint_every: after how many steps what is done so far is written.
        progress: whether to show bars.

    Returns:
        Two lines per kernel, one for each definition of recall. ``size`` is the number of parameters as a share of ReBased's;
        perplexities and ``recall_share`` are those of ``Perplexity``.

    Raises:
        InvalidArgument: no such kernel or device, too little text, or a folder that cannot be used.
        FormatError: no text or tokenizer, or a broken file in ``out``.
        NonFinite: a loss that became NaN or infinite.
    """
    if checkpoint_every < 1:
        raise InvalidArgument(
            f"checkpoint_every must be at least 1; got {checkpoint_every}"
        )
    arguments.device(device)
    tokenizer = load_tokenizer(text.tokenizer)
    # A multiple of 8, as published; the rows above the tokenizer's are never read.
    vocab_size = -(-len(tokenizer) // 8) * 8
    shapes = {
        kernel: model_config(kernel, config, vocab_size, tokenizer.eos_token_id)
        for kernel in dict.fromkeys(kernels)
    }
    of_rebased = n_parameters(model_config("rebased", config, vocab_size))
    files = {
        "text_files": text_files(text.text),
        "eval_text_files": text_files(text.eval_text),
    }
    run = RunFolder(out, {**asdict(config), **asdict(text)}, files)
    # Before anything is written, so that another text or another number can be given for the same folder.
    check_text(out / "tokens", config, text)
    run.begin()
    rows, held_out = prepare_tokens(
        out / "tokens", config, text, tokenizer, progress=progress
    )
    for kernel, shape in shapes.items():
        if run.has(kernel):
            continue
        checkpoint = out / f"{kernel}.checkpoint.safetensors"
        model = new_model(shape, config.seed)
        done = pretrain(
            model,
            rows,
            config,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            device=device,
            name=kernel,
            progress=progress,
        )
        run.keep_model(kernel, model, tokenizer, done.losses)
        size = n_parameters(shape)
        facts = {
            "kernel": kernel,
            "layers": shape.num_hidden_layers,
            "intermediate_size": shape.intermediate_size,
            "parameters": size,
            "size": size / of_rebased,
        }
        speed = {
            "train_tokens": config.tokens,
            "seconds": done.seconds,
            "tokens_per_second": config.tokens / done.seconds,
        }
        with autocast(config, device):
            tested = _tested(model, held_out, config.batch_size)
        run.add([{**facts, **perplexities, **speed} for perplexities in tested])
        checkpoint.unlink(missing_ok=True)
    found = run.lines()
    return pd.DataFrame(
        [line for kernel in shapes for line in found if line["kernel"] == kernel]
    )


def _tested(model: Any, held_out: TokenRows, batch_size: int) -> list[dict[str, Any]]:
    rows = held_out.at(range(len(held_out)))
    losses = token_losses(model, rows, batch_size=batch_size)
    found = []
    for recall in get_args(Recall):
        these = split(losses, recall_mask(rows, recall))
        perplexities = {
            "perplexity": these.all,
            "perplexity_recall": these.recall,
            "perplexity_other": these.other,
        }
        found.append(
            {
                "recall": recall,
                **perplexities,
                "recall_share": these.recall_share,
                "test_tokens": these.tokens,
            }
        )
    return found
