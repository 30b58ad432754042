"""When a training writes a checkpoint, and what it checks before."""

import time

import torch

from sae_lens_ext.errors import NonFinite
from sae_lens_ext.training.checkpoints import RunFolder, captured
from sae_lens_ext.training.logging import MetricsFile
from sae_lens_ext.training.run_config import RunConfig
from sae_lens_ext.training.trainer import Trainer


class Saver:
    """Writes the checkpoints of a training into its folder."""

    def __init__(
        self, trainer: Trainer, run: RunConfig, folder: RunFolder, metrics: MetricsFile
    ) -> None:
        """Begin; the state is that of the last checkpoint, or a new one.

        Args:
            trainer: the training.
            run: how often to write.
            folder: where to write.
            metrics: the file of metrics, which a checkpoint belongs to.
        """
        self._trainer = trainer
        self._run = run
        self._folder = folder
        self._metrics = metrics
        self._saved_step = trainer.state.step
        self._saved_at = time.perf_counter()

    def after_step(self) -> None:
        """Write a checkpoint if one is due."""
        n_steps = self._trainer.state.step - self._saved_step
        minutes = (time.perf_counter() - self._saved_at) / 60
        is_late = minutes >= self._run.checkpoint_minutes
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
        state.losses.settle()
        if state.step in self._folder.checkpoints.steps():
            return
        self._check_weights()

        now = time.perf_counter()
        state.seconds += now - self._saved_at
        self._saved_at = now
        with self._folder.writing():
            checkpoint = captured(
                state,
                trainer.normalization.statistics,
                trainer.stream.state(),
                self._metrics.synced_size(),
            )
            self._folder.checkpoints.write(state.step, checkpoint)
            self._folder.checkpoints.keep(self._run.keep_last)
        self._saved_step = state.step

    def _check_weights(self) -> None:
        # A gradient can be NaN where its loss is not yet.
        for name, weight in self._trainer.state.sae.weights().items():
            if not torch.isfinite(weight).all():
                raise NonFinite(
                    f"{name} became NaN or infinite by step {self._trainer.state.step} "
                    f"of {self._trainer.n_steps}; try a smaller lr than "
                    f"{self._trainer.config.lr}"
                )
