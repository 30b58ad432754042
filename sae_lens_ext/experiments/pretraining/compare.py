"""Comparison of several models on one text.

Each is trained, tested and kept in one folder, which a later call goes on from.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.based.config import BasedConfig
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.experiments.checks import check_instance
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
from sae_lens_ext.experiments.pretraining.text import describe_files, load_tokenizer
from sae_lens_ext.experiments.pretraining.tokens import (
    TokenRows,
    check_text,
    prepare_tokens,
)
from sae_lens_ext.experiments.pretraining.training import (
    Pretrained,
    autocast,
    pretrain,
)


def compare_kernels(
    kernels: Sequence[str],
    out: Path | str,
    config: PretrainConfig,
    text: TextConfig,
    *,
    device: str = "cpu",
    checkpoint_every: int = 200,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and test models that have no results in ``out`` yet, and keep them there.

    Args:
        kernels: names from ``FEATURE_MAPS``, or "attention".
        out: a folder for this run alone; ``sae_lens_ext.cli.pretrain`` says what is
            written there.
        config: the models and their training.
        text: what to train on and to test on.
        device: where to train.
        checkpoint_every: number of steps between checkpoints.
        progress: whether to show progress bars.

    Returns:
        Two rows per kernel, one per definition of recall. ``size`` is the number of
        parameters as a share of ReBased's; perplexities and ``recall_share`` are those
        of ``Perplexity``.

    Raises:
        InvalidArgument: an unknown kernel or device, too little text, or a folder that
            cannot be used.
        FormatError: no text or tokenizer, or a broken file in ``out``.
        NonFinite: a loss became NaN or infinite.
    """
    arguments.positive_int(checkpoint_every, "checkpoint_every")
    arguments.device(device)
    check_instance(config, PretrainConfig, "config")
    check_instance(text, TextConfig, "text")
    if isinstance(kernels, str):
        raise InvalidArgument(f"kernels must be a list; got {described(kernels)}")
    out = Path(out)

    tokenizer = load_tokenizer(text.tokenizer)
    # A multiple of 8, as published; the rows above the tokenizer's are never read.
    vocab_size = -(-len(tokenizer) // 8) * 8
    shapes = {
        kernel: model_config(kernel, config, vocab_size, tokenizer.eos_token_id)
        for kernel in dict.fromkeys(kernels)
    }
    rebased_size = n_parameters(model_config("rebased", config, vocab_size))

    folder = _begin(out, config, text)
    rows, held_out = prepare_tokens(
        out / "tokens",
        config,
        text,
        tokenizer,
        progress=progress,
    )

    for kernel, shape in shapes.items():
        # Asked again for each, since another command may have trained it meanwhile.
        if folder.has_results(kernel):
            continue
        checkpoint = out / f"{kernel}.checkpoint.safetensors"
        model = new_model(shape, config.seed)
        trained = pretrain(
            model,
            rows,
            config,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            device=device,
            name=kernel,
            progress=progress,
        )
        folder.save_model(kernel, model, tokenizer, trained.losses)

        with autocast(config, device):
            tests = _test(model, held_out, config.batch_size)
        facts = _facts(kernel, shape, rebased_size)
        speed = _speed(config, trained)
        folder.add([{**facts, **test, **speed} for test in tests])
        # It is needed until there are results.
        checkpoint.unlink(missing_ok=True)

    results = folder.results()
    return pd.DataFrame(
        [
            result
            for kernel in shapes
            for result in results
            if result["kernel"] == kernel
        ]
    )


def _begin(out: Path, config: PretrainConfig, text: TextConfig) -> RunFolder:
    """Make the folder of a run, or go on with it."""
    files = {
        "text_files": describe_files(text.text),
        "eval_text_files": describe_files(text.eval_text),
    }
    folder = RunFolder(out, {**asdict(config), **asdict(text)}, files)
    # Before anything is written, so that the same folder can be used after an error.
    check_text(out / "tokens", config, text)
    folder.begin()
    return folder


def _facts(kernel: str, shape: BasedConfig, rebased_size: int) -> dict[str, Any]:
    size = n_parameters(shape)
    return {
        "kernel": kernel,
        "layers": shape.num_hidden_layers,
        "intermediate_size": shape.intermediate_size,
        "parameters": size,
        "size": size / rebased_size,
    }


def _speed(config: PretrainConfig, trained: Pretrained) -> dict[str, Any]:
    return {
        "train_tokens": config.tokens,
        "seconds": trained.seconds,
        "tokens_per_second": config.tokens / trained.seconds,
    }


def _test(model: Any, held_out: TokenRows, batch_size: int) -> list[dict[str, Any]]:
    """Perplexities of held-out text, for each definition of recall."""
    rows = held_out.at(range(len(held_out)))
    losses = token_losses(model, rows, batch_size=batch_size)

    # The losses are the same for every definition of recall.
    tests = []
    for recall in get_args(Recall):
        perplexity = split(losses, recall_mask(rows, recall))
        tests.append(
            {
                "recall": recall,
                "perplexity": perplexity.all,
                "perplexity_recall": perplexity.recall,
                "perplexity_other": perplexity.other,
                "recall_share": perplexity.recall_share,
                "test_tokens": perplexity.tokens,
            }
        )
    return tests
