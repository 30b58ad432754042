"""What a training will take, before it begins."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from sae_lens_ext.sae import SAE
from sae_lens_ext.training.config import TrainConfig
from sae_lens_ext.training.optimizer import trained_weights
from sae_lens_ext.training.parallel import ALONE, Ranks, local

_FLOAT = 4
_MEGABYTE = 1e6
_GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a training; memory in bytes."""

    sites: tuple[str, ...]
    """The site of an SAE, or the two of a transcoder."""
    parameters: int
    """Trained numbers."""
    weights: int
    """Memory of the weights."""
    gradients: int
    """Memory of their gradients."""
    optimizer: int
    """Memory of Adam's two averages."""
    batch: int
    """Memory of the activations and the codes of a step, roughly."""
    checkpoint: int
    """A checkpoint on disk, without what the stream adds."""
    tokens: int
    """Tokens to train on."""
    steps: int
    """Steps."""
    saved: int
    """A trained SAE on disk."""
    exchanged: int = 0
    """Memory of what a process gets of the others in a step, at most."""
    processes: int = 1
    """Processes that share the training; memory is that of one of them."""

    @property
    def memory(self) -> int:
        """Memory of the training, without that of the stream and its model."""
        own = self.weights + self.gradients + self.optimizer
        return own + self.batch + self.exchanged

    def lines(self, folder: Path | None = None, keep_last: int = 1) -> list[str]:
        """The plan in words, with the room on the disk of a folder."""
        lines = [
            f"training at {' -> '.join(self.sites)}: {self.parameters:,} parameters, "
            f"{self.tokens:,} tokens in {self.steps:,} steps",
            f"{self._memory_of()}: {_size(self.memory)} "
            f"(weights {_size(self.weights)}, gradients "
            f"{_size(self.gradients)}, optimizer {_size(self.optimizer)}, "
            f"batch {_size(self.batch)}{self._exchanged()})",
        ]
        if folder is not None:
            # One more is there while the oldest is not deleted yet.
            needed = (keep_last + 1) * self.checkpoint + 2 * self.saved
            free = shutil.disk_usage(folder).free
            line = f"disk in {folder}: {_size(needed)} of {_size(free)} that are free"
            if needed > free:
                line += ": NOT ENOUGH; make room, or keep fewer checkpoints"
            lines.append(line)
        return lines

    def _memory_of(self) -> str:
        if self.processes == 1:
            return "memory without the model's"
        return f"memory of each of {self.processes} processes, without the model's"

    def _exchanged(self) -> str:
        return f", exchanged {_size(self.exchanged)}" if self.exchanged else ""


def plan_of(
    sae: SAE,
    config: TrainConfig,
    sites: tuple[str, ...],
    n_tokens: int,
    n_steps: int,
    ranks: Ranks = ALONE,
) -> Plan:
    """The plan of a training.

    Args:
        sae: what this process trains of it.
        config: the settings.
        sites: the site, or the two of a transcoder.
        n_tokens: tokens to train on.
        n_steps: steps.
        ranks: the processes that share the training.
    """
    bytes_of_average = 1 if config.eight_bit else _FLOAT
    all_weights = list(sae.parameters())
    trained = list(trained_weights(sae, config).values())
    parameters = sum(weight.numel() for weight in trained)
    trained_here = sum(local(weight).numel() for weight in trained)
    here = sum(local(weight).numel() for weight in all_weights)
    n_weights = sum(weight.numel() for weight in all_weights)

    width = sae.config.d_model + sae.config.output_width
    largest_k = max(config.k, config.k_start or 0)
    # MultiTopK reconstructs from several times k features too.
    reconstructed_k = largest_k * getattr(config.objective, "factor", 1)
    rows = ranks.most_rows(config.d_sae, config.batch_size, reconstructed_k)
    # Inputs, targets, residuals and their gradients; values and 64-bit indices.
    per_token = 4 * width * _FLOAT + 2 * largest_k * (_FLOAT + 2 * _FLOAT)
    share = -(-config.batch_size // ranks.size)
    return Plan(
        sites=sites,
        parameters=parameters,
        weights=here * _FLOAT,
        gradients=here * _FLOAT,
        optimizer=2 * trained_here * bytes_of_average,
        batch=share * per_token,
        checkpoint=n_weights * _FLOAT + 2 * parameters * bytes_of_average,
        tokens=n_tokens,
        steps=n_steps,
        saved=n_weights * _FLOAT,
        # The rows and their gradients.
        exchanged=2 * rows * sae.config.output_width * _FLOAT,
        processes=ranks.size,
    )


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(42.4), duration(150.0), duration(7300.0), duration(200_000.0)
    ('42 s', '2.5 min', '2.0 h', '2.3 days')
    """
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        # A day and a half is easier to read in hours.
        if seconds >= (2 if unit == "days" else 1) * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _size(n_bytes: int) -> str:
    """A size in words.

    >>> _size(1_500_000_000), _size(800_000)
    ('1.50 GB', '0.8 MB')
    """
    if n_bytes >= 0.1 * _GIGABYTE:
        return f"{n_bytes / _GIGABYTE:.2f} GB"
    return f"{n_bytes / _MEGABYTE:.1f} MB"
