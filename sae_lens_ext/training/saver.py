"""When a training writes a checkpoint, and what it checks before."""

import time

import torch

from sae_lens_ext.errors import NonFinite
from sae_lens_ext.training.checkpoints import RunFolder, captured
from sae_lens_ext.training.logging import MetricsFile
from sae_lens_ext.training.parallel import local
from sae_lens_ext.training.run_config import RunConfig
from sae_lens_ext.training.stream import StreamState
from sae_lens_ext.training.stream.checks import checked_state
from sae_lens_ext.training.trainer import Trainer


class Saver:
    """Writes the checkpoints of a training into its folder."""

    def __init__(
        self,
        trainer: Trainer,
        run: RunConfig,
        folder: RunFolder,
        metrics: MetricsFile | None,
    ) -> None:
        """Begin; the state is that of the last checkpoint, or a new one.

        Args:
            trainer: the training.
            run: how often to write.
            folder: where to write.
            metrics: the file of metrics, which a checkpoint belongs to; None where
                another process writes it.
        """
        self._trainer = trainer
        self._run = run
        self._folder = folder
        self._metrics = metrics
        self._saved_step = trainer.state.step
        self._saved_at = time.perf_counter()

    def is_late(self) -> bool:
        """Whether the last checkpoint was long ago, by the first process's clock."""
        minutes = (time.perf_counter() - self._saved_at) / 60
        is_late = minutes >= self._run.checkpoint_minutes
        return is_late and self._trainer.ranks.is_first

    def after_step(self, *, is_late: bool) -> None:
        """Write a checkpoint if one is due."""
        n_steps = self._trainer.state.step - self._saved_step
        if n_steps >= self._run.checkpoint_every or is_late:
            self.save()

    def save(self) -> None:
        """Write a checkpoint, unless there is one of this step.

        Raises:
            NonFinite: the loss, or a weight, is NaN or infinite.
            OSError: the disk is full.
        """
        trainer = self._trainer
        state = trainer.state
        ranks = trainer.ranks
        state.losses.settle()
        if state.step in self._folder.checkpoints.steps():
            return
        self._check_weights()

        now = time.perf_counter()
        state.seconds += now - self._saved_at
        self._saved_at = now
        # The same on all processes; one of them writes it.
        of_stream = StreamState({}, {})
        if ranks.is_first:
            of_stream = checked_state(trainer.stream.state())
        with self._folder.writing():
            checkpoint = captured(
                state,
                trainer.normalization.statistics,
                of_stream,
                self._metrics.synced_size() if self._metrics is not None else 0,
            )
            self._folder.checkpoints.write(state.step, checkpoint, ranks)
            if ranks.is_first:
                self._folder.checkpoints.keep(self._run.keep_last)
        self._saved_step = state.step

    def _check_weights(self) -> None:
        # A gradient can be NaN where its loss is not yet.
        ranks = self._trainer.ranks
        weights = self._trainer.state.sae.weights()
        are_broken = [not torch.isfinite(local(w)).all() for w in weights.values()]
        for name, is_broken in zip(weights, ranks.largest(*are_broken), strict=True):
            if is_broken:
                raise NonFinite(
                    f"{name} became NaN or infinite by step {self._trainer.state.step} "
                    f"of {self._trainer.n_steps}; try a smaller lr than "
                    f"{self._trainer.config.lr}"
                )
