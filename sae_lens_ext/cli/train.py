"""``sae-lens-ext train``: from a text to an SAE that is evaluated, in one command.

    sae-lens-ext train --model google/gemma-2-2b --hook-name blocks.12.hook_resid_post
        --text my_texts --d-sae 65536 --k 128 --n-tokens 500000000 --out runs/first

leaves, in ``--out``: the run (see ``sae_lens_ext.train``) with the SAE in ``sae``, its
table at every k with a picture, and its card. The same command goes on where it was
interrupted.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_lens_ext.cli.inputs import LanguageModel, load_sae
from sae_lens_ext.cli.outcome import echo, exit_code
from sae_lens_ext.cli.parsing import make_folder, option_names, parse
from sae_lens_ext.cli.train_options import TrainOptions, sites_of
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.interventions import sweep_k
from sae_lens_ext.publishing import model_card, push_to_hub, save_results
from sae_lens_ext.training import (
    ErrorMetric,
    ModelStream,
    TrainConfig,
    Trained,
    train,
)
from sae_lens_ext.training.metric import METRIC_FILE
from sae_lens_ext.viz import sweep_as_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command and return its exit code."""
    options = parse(TrainOptions, arguments, "train")
    out = options.job.out
    return exit_code(
        lambda: _train(options),
        options=option_names(TrainOptions),
        goes_on_from=lambda: out if any(out.glob("checkpoints/step-*")) else None,
    )


def _train(options: TrainOptions) -> None:
    config, run = options.configs()
    job = options.job
    # Several processes train together; what else there is to do, one of them does.
    is_first = os.environ.get("RANK", "0") == "0"
    if is_first:
        make_folder(job.out)
    start = None if job.start is None else load_sae(job.start)
    progress = job.progress and is_first
    language_model = options.model.load(progress=progress)
    # Before the training, so that a text without held-out rows is an error now.
    held_out = options.text.held_out_tokens(language_model.tokenizer, job.eval_rows)

    metric = options.metric.chosen(
        language_model,
        options.text,
        sites_of(config)[-1],
        job.out / METRIC_FILE,
        progress=progress,
    )
    stream = options.stream.stream(
        language_model, options.text, config, progress=progress
    )
    trained = train(
        stream,
        config,
        job.out,
        run=run,
        held_out=_held_out_stream(options, language_model, config),
        start=start,
        metric=metric,
        device=language_model.device,
        progress=progress,
    )
    if is_first:
        facts = _facts(options, config, metric, trained)
        _finish(options, language_model, held_out, trained, facts)


def _finish(
    options: TrainOptions,
    language_model: LanguageModel,
    held_out: Tensor,
    trained: Trained,
    facts: dict[str, Any],
) -> None:
    """Measure the SAE on held-out tokens, and write and upload the results."""
    job = options.job
    sae = trained.sae.to(language_model.device)
    sweep = sweep_k(language_model.model, held_out, sae, progress=job.progress)
    echo(sweep_as_text(sweep))
    results = save_results(job.out, sweep)
    card = job.out / "README.md"
    with replacing(card) as temporary:
        text = model_card(
            trained.sae,
            loading='sae = sle.SAE.from_pretrained("path/to/this/folder/sae")',
            table=sweep,
            training=facts,
            picture=results.picture.name,
            license=job.license,
        )
        temporary.write_text(text, encoding="utf-8")
    echo(f"\nWrote {job.out / 'sae'}, {results.table}, {results.picture} and {card}.")

    if job.push_to_hub is not None:
        address = push_to_hub(
            trained.sae,
            job.push_to_hub,
            table=sweep,
            training=facts,
            license=job.license,
            private=job.private,
        )
        echo(f"Uploaded to {address}.")


def _held_out_stream(
    options: TrainOptions, language_model: LanguageModel, config: TrainConfig
) -> ModelStream:
    n_rows = options.stream.rows_per_pass
    return ModelStream(
        language_model.model,
        options.text.rows(language_model.tokenizer, held_out=True),
        sites_of(config),
        batch_size=n_rows,
        # As small as it may be: these tokens need no shuffling.
        buffer_tokens=2 * n_rows * options.text.context,
        n_tokens=options.run.eval_tokens,
        overlap=False,
    )


def _facts(
    options: TrainOptions,
    config: TrainConfig,
    metric: ErrorMetric | None,
    trained: Trained,
) -> dict[str, Any]:
    """What the card says about the training."""
    facts = {
        "objective": repr(config.objective),
        "started from": options.job.start and _shown(options.job.start),
        "errors": None if metric is None else metric.about,
        "text": _shown(options.text.text),
        "tokens": f"{config.n_tokens:,}" if config.n_tokens else "all of a cache, once",
        "tokens per step": f"{config.batch_size:,}",
        "learning rate": f"{config.lr:g}",
        "dead features": f"{trained.dead:.1%}",
        "seed": config.seed,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _shown(text: str) -> str:
    """What a card calls a text or an SAE: those of this machine by their own names."""
    path = Path(text)
    return path.resolve().name if path.exists() else text
