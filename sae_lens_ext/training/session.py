"""One call of ``train``: from a trainer to a result, in memory or in a folder."""

import contextlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument, NonFinite
from sae_lens_ext.sae import SAE
from sae_lens_ext.training.checkpoints import (
    Checkpoint,
    RunFolder,
    restore,
    restore_random_states,
    statistics_of,
    stream_state_of,
)
from sae_lens_ext.training.config import TrainConfig
from sae_lens_ext.training.evaluation import HeldOut, held_out_batch
from sae_lens_ext.training.interruption import Interruption
from sae_lens_ext.training.logging import (
    LoggedRun,
    Logger,
    MetricsFile,
    open_loggers,
)
from sae_lens_ext.training.measures import Measure
from sae_lens_ext.training.metric import ErrorMetric
from sae_lens_ext.training.parallel import ALONE, Ranks
from sae_lens_ext.training.plan import plan_of
from sae_lens_ext.training.reporter import Reporter
from sae_lens_ext.training.result import Trained, trained
from sae_lens_ext.training.run_config import RunConfig
from sae_lens_ext.training.same_stream import (
    check_stream,
    described_stream,
    restore_stream,
)
from sae_lens_ext.training.saver import Saver
from sae_lens_ext.training.setup import new_trainer
from sae_lens_ext.training.stream import ActivationStream, SiteStatistics
from sae_lens_ext.training.stream.base import pause
from sae_lens_ext.training.trainer import Pair, StepBatch, Trainer


@dataclass(frozen=True, kw_only=True)
class Session:
    """What ``train`` was called with, apart from the folder."""

    stream: ActivationStream
    """The activations."""
    config: TrainConfig
    """The settings."""
    run: RunConfig
    """How to save, evaluate and log."""
    generator: torch.Generator
    """Draws the first weights."""
    held_out: HeldOut | None
    """Activations to evaluate on."""
    measure: Measure | None
    """What else to measure at every evaluation."""
    device: torch.device
    """Where to train."""
    start: SAE | None
    """The SAE to begin with; None begins with random weights."""
    metric: ErrorMetric | None
    """What errors count by; None for their squares."""
    progress: bool
    """Whether to show the plan and a bar."""
    ranks: Ranks = ALONE
    """The processes that share the training."""

    def in_memory(self) -> Trained:
        """Train without a folder."""
        trainer = self._new_trainer(None)
        with self._bar(trainer) as bar:
            reporter = Reporter(
                trainer,
                self.run,
                bar,
                held_out=self._held_out_pair(trainer),
                measure=self.measure,
            )
            self._announce(trainer, bar, None)
            start = time.perf_counter()
            _take_steps(trainer, reporter)
            trainer.state.seconds = time.perf_counter() - start
        return trained(trainer, reporter.held_out_fvu)

    def in_folder(self, folder: RunFolder) -> Trained:
        """Begin a run, go on with it, or return its result.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
            NonFinite: the loss, or a weight, became NaN or infinite.
        """
        if folder.is_finished():
            return self._result(folder)

        ranks = self.ranks
        checkpoint = folder.newest(ranks)
        trainer = self._new_trainer(checkpoint)
        metrics_size = 0
        if checkpoint is not None:
            metrics_size = self._go_on(trainer, checkpoint, folder)
        # Its tensors are files that are still open.
        del checkpoint

        with contextlib.ExitStack() as stack:
            metrics = None
            loggers: Sequence[Logger] = ()
            if ranks.is_first:
                with folder.writing():
                    metrics = MetricsFile(folder.metrics, metrics_size)
                stack.callback(metrics.close)
                logged = LoggedRun(
                    folder.path, self.run.project, folder.facts, trainer.state.step
                )
                loggers = open_loggers(self.run.log_to, logged)
                for logger in loggers:
                    stack.callback(logger.close)

            bar = stack.enter_context(self._bar(trainer))
            reporter = Reporter(
                trainer,
                self.run,
                bar,
                folder=folder,
                metrics=metrics,
                loggers=loggers,
                held_out=self._held_out_pair(trainer),
                measure=self.measure,
            )
            saver = Saver(trainer, self.run, folder, metrics)
            interruption = stack.enter_context(Interruption())
            self._announce(trainer, bar, folder)
            self._run(trainer, reporter, saver, interruption, folder)
            if interruption.signal is not None and not bar.disable:
                bar.write(
                    f"interrupted; the same call goes on after step "
                    f"{trainer.state.step:,}, from {folder.path}"
                )

        # It may have reached only some of the processes so far.
        interruption.agree(ranks)
        interruption.deliver()
        result = trained(trainer, reporter.held_out_fvu)
        facts = {
            "steps": trainer.state.step,
            "tokens": trainer.state.n_tokens,
            "seconds": trainer.state.seconds,
            "dead": result.dead,
            "tokens_per_second": result.tokens_per_second,
            "held_out_fvu": dict(result.held_out_fvu),
            # Its held-out error, and the step.
            "best": trainer.state.best and trainer.state.best[:2],
        }
        if ranks.is_first:
            # The result of another stream is refused, also without checkpoints.
            facts["stream"] = described_stream(self.stream, self._of_stream(trainer))
            folder.finish(result.sae, facts)
        # The others return when the folder is whole.
        ranks.from_first(None)
        return result

    def _run(
        self,
        trainer: Trainer,
        reporter: Reporter,
        saver: Saver,
        interruption: Interruption,
        folder: RunFolder,
    ) -> None:
        try:
            _take_steps(trainer, reporter, saver, interruption)
        except NonFinite as error:
            steps = folder.checkpoints.steps()
            if not steps:
                raise
            raise NonFinite(
                f"{error}. The checkpoint of step {steps[-1]} is kept in {folder.path}"
            ) from error

    def _new_trainer(self, checkpoint: Checkpoint | None) -> Trainer:
        statistics = None if checkpoint is None else statistics_of(checkpoint)
        return new_trainer(
            self.stream,
            self.config,
            self.generator,
            self.device,
            statistics,
            self.start,
            self.ranks,
            self.metric,
        )

    def _restore_stream(
        self, trainer: Trainer, checkpoint: Checkpoint, folder: RunFolder
    ) -> None:
        restore_stream(
            self.stream,
            stream_state_of(checkpoint),
            self._of_stream(trainer),
            folder.path,
        )

    def _of_stream(self, trainer: Trainer) -> dict[str, SiteStatistics]:
        """The constants that the stream has, and not the metric."""
        target = None if self.metric is None else self.metric.hook_name
        statistics = trainer.normalization.statistics
        return {site: each for site, each in statistics.items() if site != target}

    def _go_on(
        self, trainer: Trainer, checkpoint: Checkpoint, folder: RunFolder
    ) -> int:
        """Put everything into the state of a checkpoint; the size of its metrics."""
        restore(trainer.state, checkpoint)
        self._restore_stream(trainer, checkpoint, folder)
        # Last, because the others may draw something.
        random = checkpoint.tensors["random"]
        restore_random_states(random, checkpoint.facts["random"])
        return checkpoint.facts["metrics_size"]

    def _result(self, folder: RunFolder) -> Trained:
        """The result of a run that is finished."""
        facts = folder.result()
        # JSON has strings for keys, and "null" for None.
        by_k = {
            None if k == "null" else int(k): fvu
            for k, fvu in facts["held_out_fvu"].items()
        }
        checkpoint = folder.newest(self.ranks)
        if checkpoint is not None:
            trainer = self._new_trainer(checkpoint)
            restore(trainer.state, checkpoint)
            # An error, if the result is that of another stream.
            self._restore_stream(trainer, checkpoint, folder)
            return trained(trainer, by_k)

        check_stream(self.stream, facts.get("stream", {}), folder.path)
        sae = SAE.from_pretrained(folder.path / "sae", folded=False, device=self.device)
        return Trained(sae, [], facts["dead"], facts["tokens_per_second"], by_k)

    def _held_out_pair(self, trainer: Trainer) -> Pair | None:
        if self.held_out is None:
            return None
        normalization = trainer.normalization
        widths = {site: self.stream.width(site) for site in normalization.statistics}
        # They may be of a stream that runs the same model.
        pause(self.stream)
        batch = held_out_batch(self.held_out, widths, self.run.eval_tokens)
        pause(self.held_out)
        # On the CPU: it goes to the device piece by piece.
        return normalization.pair(batch, "cpu")

    def _bar(self, trainer: Trainer) -> Any:
        tqdm = require("tqdm.auto", "Showing progress").tqdm
        return tqdm(
            total=trainer.n_tokens,
            initial=trainer.state.n_tokens,
            desc="training",
            unit="token",
            unit_scale=True,
            disable=not self.progress,
        )

    def _announce(self, trainer: Trainer, bar: Any, folder: RunFolder | None) -> None:
        """Print the plan, and where the run goes on."""
        if bar.disable:
            return
        sites = tuple(trainer.normalization.statistics)
        plan = plan_of(
            trainer.state.sae,
            self.config,
            sites,
            trainer.n_tokens,
            trainer.n_steps,
            self.ranks,
        )
        path = None if folder is None else folder.path
        for line in plan.lines(path, self.run.keep_last):
            bar.write(line)
        if trainer.state.step:
            bar.write(f"going on after step {trainer.state.step:,}")


def _take_steps(
    trainer: Trainer,
    reporter: Reporter,
    saver: Saver | None = None,
    interruption: Interruption | None = None,
) -> None:
    """Take all steps that are left, or stop at an interruption.

    Raises:
        InvalidArgument: the stream gave no tokens at all.
    """
    batch: StepBatch | None = None
    is_interrupted = False
    ranks = trainer.ranks
    while trainer.has_steps_left() and not is_interrupted:
        next_batch = trainer.next_batch()
        if next_batch is None:
            if not trainer.state.step:
                raise InvalidArgument(
                    "the stream gave no tokens: it may have been read to its end "
                    "before; give a new one"
                )
            if ranks.is_first:
                warnings.warn(
                    f"the stream ended after {trainer.state.n_tokens:,} of "
                    f"{trainer.n_tokens:,} tokens; the learning rate had not fallen "
                    "to 0",
                    stacklevel=4,
                )
            reporter.finish(batch)
            break

        batch = next_batch
        trainer.step(batch)
        reporter.after_step(batch)
        if saver is not None and interruption is not None:
            (is_late,) = interruption.agree(ranks, saver.is_late())
            saver.after_step(is_late=bool(is_late))
            is_interrupted = interruption.signal is not None

    trainer.state.losses.settle()
    if saver is not None:
        saver.save()
