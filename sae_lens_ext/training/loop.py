"""Train an SAE, or a transcoder, on activations.

1. Centre and scale the activations by constants of their site.
2. Batch by batch: objective, gradients, Adam with a warm-up and a linear decay at the
   end.
3. Keep decoder rows at unit norm around every step (``train_step``).
4. Count, for every feature, the tokens since it was last active.
5. Now and then, where there is a folder: metrics, evaluations, a checkpoint.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.formats.paths import checked_path
from sae_lens_ext.sae import SAE
from sae_lens_ext.training.activations import Activations
from sae_lens_ext.training.checkpoints import run_facts, run_folder
from sae_lens_ext.training.config import TrainConfig
from sae_lens_ext.training.evaluation import HeldOut
from sae_lens_ext.training.measures import Measure
from sae_lens_ext.training.metric import ErrorMetric
from sae_lens_ext.training.parallel.launched import device_of_rank, joined, shared
from sae_lens_ext.training.result import Trained
from sae_lens_ext.training.run_config import RunConfig
from sae_lens_ext.training.session import Session
from sae_lens_ext.training.setup import check_metric, sites_of
from sae_lens_ext.training.start import digest
from sae_lens_ext.training.stream import ActivationStream, TensorStream
from sae_lens_ext.training.stream.base import pausing
from sae_lens_ext.training.stream.checks import missing_of_stream

# Passes over activations in memory.
_EPOCHS = 3


def train(
    activations: ActivationStream | Activations,
    config: TrainConfig,
    folder: str | Path | None = None,
    *,
    start: SAE | None = None,
    metric: ErrorMetric | None = None,
    run: RunConfig | None = None,
    held_out: HeldOut | None = None,
    measure: Measure | None = None,
    model_name: str | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Trained:
    """Train an SAE; on a CPU the same call gives the same bits every time.

    With a folder, the run can be killed at any moment: the same call goes on from the
    last checkpoint, and on a CPU ends with the same bits as a run that was not
    disturbed. Called again once it is finished, it returns the result. The folder gets
    ``metrics.jsonl``, the trained SAE as ``sae/``, and with held-out tokens the best
    one as ``best/``. Ctrl-C, and the signal by which clusters end jobs, write a
    checkpoint first.

    Under ``torchrun``, all processes share the training and return the same, as
    ``run.parallel`` says. The folder has to be one that all of them see. A run goes on
    with any number of processes.

    Args:
        activations: what to train on: a stream from its beginning, or activations in
            memory, without special tokens and with outliers clipped.
        config: the size of the SAE and how to train it.
        folder: where to save the run; None keeps everything in memory.
        start: an SAE or transcoder to begin with, such as a published one; None begins
            with random weights. Before the first step, what is trained computes the
            same; ``docs/training.md`` says what is kept where the kinds differ.
        metric: what errors of what is reconstructed count by, such as
            ``fisher_metric(model, tokens, hook_name)``; of a transcoder, the site is
            that of its output. None counts their squares. Only the loss is by the
            metric: evaluations and the SAE are of activations as they are.
        run: how to save, evaluate and log.
        held_out: activations to evaluate on: a tensor, ``Activations``, tensors by
            site, or a stream to take some from, which then goes back to where it was.
        measure: a function of the SAE whose numbers join the metrics at every
            evaluation, such as ``recovered_ce(model, tokens)``. It is called without
            gradients, and must not change the SAE.
        model_name: name of the model, kept in the SAE's config; a stream has its own.
        device: where to train; with several processes, "cuda" is a GPU for each.
        progress: whether to show the plan, and a bar with the loss, the fraction of
            variance unexplained at several k, the share of dead features, the speed,
            and the time left.

    Raises:
        InvalidArgument: there are no activations, or they are all equal; the config
            does not fit the stream, or the start or the metric do not; the folder holds
            another run, or another process trains there, or it cannot be written to.
        InvalidK: the objective's levels do not fit k, or there are fewer features than
            a k of ``run``.
        NonFinite: the loss became NaN or infinite. The last checkpoint is kept.
        FormatError: the folder is damaged.
        RankLost: another of several processes has ended. The last checkpoint is kept.
        OSError: the disk is full. The last checkpoint is kept.
        MissingDependency: a logger, or averages in 8 bits, need a package.
    """
    _check_inputs(activations, config, run, start, metric, measure)
    if held_out is not None and _is_same(held_out, activations):
        raise InvalidArgument(
            "held_out is what is trained on; give activations of other text"
        )
    if run is not None and run.log_to and folder is None:
        raise InvalidArgument(
            f"log_to={list(run.log_to)} is for runs with a folder; give folder= too"
        )
    stream: Any = activations
    if isinstance(activations, Activations):
        stream = _in_memory(activations, config, model_name)
        if config.dead_after is None:
            config = replace(config, dead_after=len(activations.values))
    run = RunConfig() if run is None else run
    run.check_ks(config.d_sae)
    own_device = device_of_rank(arguments.device(device))

    # Whoever called may use the model of the stream for something else afterwards.
    with (
        pausing(stream),
        joined(config, run, own_device) as ranks,
        shared(ranks, stream, held_out),
    ):
        session = Session(
            stream=stream,
            config=config,
            run=run,
            generator=torch.Generator().manual_seed(config.seed),
            held_out=held_out,
            measure=measure,
            device=own_device,
            start=start,
            metric=metric,
            progress=progress and ranks.is_first,
            ranks=ranks,
        )
        # A stream may have to run its model to know its widths.
        sites = sites_of(stream, config)
        if metric is not None:
            check_metric(metric, stream, sites)
        start_digest = None if start is None else digest(start)
        facts = run_facts(config, stream, sites, start_digest, metric)
        ranks.check_same(facts)
        if folder is None:
            return session.in_memory()
        path = checked_path(folder, "folder")
        with run_folder(path, facts, ranks, metric) as opened:
            return session.in_folder(opened)


def _in_memory(
    activations: Activations, config: TrainConfig, model_name: str | None
) -> TensorStream:
    """A stream of activations as they are, whose outliers may have been left alone."""
    epochs = config.epochs
    if epochs is None and config.n_tokens is None:
        epochs = _EPOCHS
    return TensorStream(
        activations,
        seed=config.seed,
        epochs=epochs,
        n_tokens=config.n_tokens,
        model_name=model_name,
        shrink=False,
    )


def _is_same(held_out: Any, activations: Any) -> bool:
    """Whether held-out activations are those that are trained on."""
    if held_out is activations:
        return True
    if not isinstance(activations, Activations):
        return False
    values = held_out
    if isinstance(held_out, Activations):
        values = held_out.values
    elif isinstance(held_out, Mapping):
        values = held_out.get(activations.hook_name)
    trained_on = activations.values
    return (
        isinstance(values, Tensor)
        and values.dtype == trained_on.dtype
        and values.device == trained_on.device
        and torch.equal(values, trained_on)
    )


def _check_inputs(
    activations: Any, config: Any, run: Any, start: Any, metric: Any, measure: Any
) -> None:
    if not isinstance(config, TrainConfig):
        raise InvalidArgument(
            f"config must be a TrainConfig; "
            f"got an object of type {type(config).__name__}"
        )
    if run is not None and not isinstance(run, RunConfig):
        raise InvalidArgument(
            f"run must be a RunConfig; got an object of type {type(run).__name__}"
        )

    if start is not None and not isinstance(start, SAE):
        raise InvalidArgument(
            "start must be an SAE, such as SAE.from_pretrained(folder); "
            f"got an object of type {type(start).__name__}"
        )
    if metric is not None and not isinstance(metric, ErrorMetric):
        raise InvalidArgument(
            "metric must be an ErrorMetric, such as fisher_metric(model, tokens, "
            f"hook_name); got an object of type {type(metric).__name__}"
        )
    if measure is not None and not callable(measure):
        raise InvalidArgument(
            "measure must be a function of the SAE, such as recovered_ce(model, "
            f"tokens); got an object of type {type(measure).__name__}"
        )
    if config.freeze_decoder and start is None:
        raise InvalidArgument(
            "freeze_decoder=True keeps the decoder of another SAE; give it as start="
        )

    if isinstance(activations, Activations):
        is_valid = activations.values.ndim == 2
    else:
        is_valid = isinstance(activations, ActivationStream)
    if not is_valid and hasattr(activations, "next_batch"):
        raise InvalidArgument(
            f"a stream needs the methods and attributes of ActivationStream; "
            f"{type(activations).__name__} lacks "
            f"{', '.join(missing_of_stream(activations))}"
        )
    if not is_valid:
        raise InvalidArgument(
            "train needs Activations with one row per token, or a stream of them; wrap "
            "a tensor [token, d_model] in Activations(values, hook_name)"
        )
    if config.epochs is not None and not isinstance(activations, Activations):
        raise InvalidArgument(
            f"epochs={config.epochs} is for activations in memory; a stream says "
            "itself how often it is read, such as ModelStream(..., epochs=2)"
        )
