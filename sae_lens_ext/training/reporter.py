"""What a training tells while it runs: a plan, a bar, metrics, evaluations."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.text.sketch import is_same, sketch
from sae_lens_ext.training.checkpoints import RunFolder
from sae_lens_ext.training.evaluation import fvu_at
from sae_lens_ext.training.logging import Logger, Metrics, MetricsFile
from sae_lens_ext.training.measures import Measure, measured
from sae_lens_ext.training.plan import duration
from sae_lens_ext.training.run_config import RunConfig
from sae_lens_ext.training.state import Best
from sae_lens_ext.training.stream.base import pause
from sae_lens_ext.training.trainer import Pair, StepBatch, Trainer

# Tokens of a batch that the metrics of its step are measured on.
_SAMPLE = 512
# The first steps compile and allocate; the next ones tell how long the rest will take.
_WARM_UP_STEPS = 2
_TIMED_STEPS = 8


class Reporter:
    """Reports on a training, and keeps the best SAE where there is a folder.

    Attributes:
        metrics: the file of metrics; None where there is no folder.
        held_out_fvu: the last evaluation, by k; empty without held-out tokens.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: RunConfig,
        bar: Any,
        *,
        folder: RunFolder | None = None,
        metrics: MetricsFile | None = None,
        loggers: Sequence[Logger] = (),
        held_out: Pair | None = None,
        measure: Measure | None = None,
    ) -> None:
        """Begin to report.

        Args:
            trainer: the training.
            run: how often to report what.
            bar: a progress bar of tqdm.
            folder: the folder of the run.
            metrics: its file of metrics.
            loggers: where else metrics go.
            held_out: tokens to evaluate on.
            measure: what else to measure at every evaluation.
        """
        self.metrics = metrics
        self.held_out_fvu: Mapping[int | None, float] = {}
        self._trainer = trainer
        self._run = run
        self._bar = bar
        self._folder = folder
        self._loggers = loggers
        self._held_out = held_out
        self._measure = measure
        self._ks: tuple[int | None, ...] = run.ks_at(trainer.config.k)
        self._best_k: int | None = run.best_k_at(trainer.config.k)
        # An SAE of a kind without k uses every active feature unless told otherwise.
        if trainer.state.sae.config.k is None:
            self._ks = (*self._ks, None)
            self._best_k = run.best_k
        self._best_of = None
        if held_out is not None:
            inputs, targets = held_out
            about = {"k": self._best_k, "inputs": inputs, "targets": targets}
            self._best_of = sketch(about)
        self._first_step = trainer.state.step
        self._timed_from = time.perf_counter()
        # For the speed: since the last record, or since the run went on.
        self._measured_from = (trainer.state.n_tokens, self._timed_from)
        has_readers = any(part is not None for part in (metrics, held_out, measure))
        # Evaluations are shared, so all processes report where one does.
        (watched,) = trainer.ranks.largest(has_readers or not bar.disable)
        self._is_silent = not watched

    def after_step(self, batch: StepBatch) -> None:
        """Report what is due after a step."""
        state = self._trainer.state
        self._bar.update(batch.n_tokens)
        self._time_first_steps()

        is_last = not self._trainer.has_steps_left()
        evaluates = is_last or state.step % self._run.eval_every == 0
        if self._is_silent:
            return
        if evaluates or state.step % self._run.log_every == 0:
            self.record(batch, evaluates=evaluates)

    def finish(self, batch: StepBatch | None) -> None:
        """Report the last step, where a stream has ended before its time."""
        state = self._trainer.state
        is_recorded = state.recorded_step == state.step
        if batch is not None and not is_recorded and not self._is_silent:
            self.record(batch, evaluates=True)

    def record(self, batch: StepBatch, *, evaluates: bool) -> None:
        """Write the metrics of the step that was just taken, and evaluate."""
        trainer = self._trainer
        state = trainer.state
        n_steps = state.step - state.recorded_step
        state.recorded_step = state.step
        n_tokens, at = self._measured_from
        now = time.perf_counter()
        self._measured_from = (state.n_tokens, now)

        fvu = self._fvu(batch.pair(slice(_SAMPLE)))
        loss = state.losses.mean_of_last(n_steps)
        dead = state.activity.dead_share()
        speed = (state.n_tokens - n_tokens) / (now - at)
        metrics: dict[str, int | float] = {
            "step": state.step,
            "tokens": state.n_tokens,
            "loss": loss,
            "lr": trainer.config.lr_at(state.step - 1, trainer.n_steps),
            "k": trainer.config.k_at(state.step - 1, trainer.n_steps),
            "dead": dead,
            **_named("fvu", fvu),
        }
        counts = trainer.stream.counts
        metrics |= {f"tokens_{name}": count for name, count in counts.items()}
        if evaluates and self._held_out is not None:
            self.held_out_fvu = self._fvu(self._held_out)
            metrics |= _named("held_out_fvu", self.held_out_fvu)
            self._keep_best(self.held_out_fvu[self._best_k])
        metrics["tokens_per_second"] = speed
        # The last, so that all other names are known.
        if evaluates and self._measure is not None:
            for name, value in self._measured(self._measure).items():
                if name in metrics:
                    raise InvalidArgument(
                        f"measure returned {name!r}, a name that the metrics of the "
                        "training have; give its number another one"
                    )
                metrics[name] = value

        self._bar.set_postfix_str(_in_short(loss, fvu, dead), refresh=False)
        self._write(state.step, metrics)

    def _fvu(self, pair: Pair) -> dict[int | None, float]:
        trainer = self._trainer
        return fvu_at(
            trainer.state.sae,
            *pair,
            self._ks,
            trainer.ranks,
            in_plain_units=trainer.normalization.errors,
        )

    def _measured(self, measure: Measure) -> dict[str, float]:
        """What somebody wants to know of the SAE as it is now."""
        trainer = self._trainer
        sae = trainer.normalization.finished(trainer.ranks.whole(trainer.state.sae))
        if not trainer.ranks.is_first:
            return {}
        # It may run the same model.
        pause(trainer.stream)
        with torch.no_grad():
            return measured(measure, sae)

    def _write(self, step: int, metrics: Metrics) -> None:
        if self._folder is not None and self.metrics is not None:
            with self._folder.writing():
                self.metrics.write(metrics)
        for logger in self._loggers:
            logger.log(step, metrics)

    def _keep_best(self, fvu: float) -> None:
        trainer = self._trainer
        state = trainer.state
        best = state.best
        # A run may go on with other held-out tokens, or another k.
        is_comparable = best is not None and is_same(best.of, self._best_of)
        if is_comparable and best is not None and not fvu < best.fvu:
            return
        state.best = Best(fvu, state.step, self._best_of)
        if self._folder is None:
            return
        sae = trainer.normalization.finished(trainer.ranks.whole(state.sae))
        if trainer.ranks.is_first:
            with self._folder.writing():
                sae.save_pretrained(self._folder.path / "best")

    def _time_first_steps(self) -> None:
        """Say how long the training will take, once some steps are timed."""
        n_done = self._trainer.state.step - self._first_step
        if n_done == _WARM_UP_STEPS:
            self._timed_from = time.perf_counter()
        if n_done == _WARM_UP_STEPS + _TIMED_STEPS and not self._bar.disable:
            seconds = (time.perf_counter() - self._timed_from) / _TIMED_STEPS
            n_left = self._trainer.n_steps - self._trainer.state.step
            self._bar.write(
                f"{duration(seconds * n_left)} to go, at {seconds:.3g} s a step"
            )


def _named(name: str, by_k: Mapping[int | None, float]) -> dict[str, float]:
    return {
        f"{name}/all" if k is None else f"{name}/k={k}": value
        for k, value in by_k.items()
    }


def _in_short(loss: float, fvu: Mapping[int | None, float], dead: float) -> str:
    """The metrics on the bar: at the smallest, a middle and the largest k."""
    ks = sorted(k for k in fvu if k is not None)
    shown = dict.fromkeys([ks[0], ks[len(ks) // 2], ks[-1]])
    parts = [f"FVU@{k}={fvu[k]:.3f}" for k in shown]
    return ", ".join([f"loss={loss:.4f}", *parts, f"dead={dead:.0%}"])
