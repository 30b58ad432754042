"""Memory of a whole training: with a large dictionary, and over many tokens.

Checkpoints and evaluations are included.
"""

import resource
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import megabytes, peak_extra_bytes
from sae_lens_ext.training import (
    Activations,
    IterableStream,
    RunConfig,
    TrainConfig,
    train,
)

D_MODEL = 640
D_SAE = 65_536
K = 64
BATCH = 2048
STEPS = 4
LONG_TOKENS = 20_000_000
LONG_D_MODEL = 64
CHUNK = 10_000
LIMIT = 3e9
"""Bytes that a training may take above its weights and its optimizer's averages."""


def training(activations: Activations, held_out: torch.Tensor, d_sae: int) -> None:
    """Train for some steps, with evaluations and two checkpoints."""
    config = TrainConfig(d_sae=d_sae, k=K, epochs=1, batch_size=BATCH)
    run = RunConfig(log_every=1, eval_every=2, checkpoint_every=2)
    with tempfile.TemporaryDirectory() as folder:
        train(activations, config, folder, run=run, held_out=held_out, progress=False)


def prepare(d_sae: int) -> tuple[Any, Any]:
    """A small training to warm up with, and the one to measure."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(STEPS * BATCH, D_MODEL, generator=generator)
    activations = Activations(values, "blocks.0.hook_resid_post")
    held_out = torch.randn(4096, D_MODEL, generator=generator)
    return (
        partial(training, activations, held_out, 512),
        partial(training, activations, held_out, d_sae),
    )


def resident_bytes() -> int:
    """What the process has in memory now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def long_training() -> list[int]:
    """Train on 20 million tokens; returns the resident memory after every million."""
    resident = []

    def chunks() -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        for chunk in range(LONG_TOKENS // CHUNK):
            if chunk * CHUNK % 1_000_000 == 0:
                resident.append(resident_bytes())
            yield torch.randn(CHUNK, LONG_D_MODEL, generator=generator)

    stream = IterableStream(chunks, "blocks.0.hook_resid_post")
    config = TrainConfig(
        d_sae=8 * LONG_D_MODEL, k=8, n_tokens=LONG_TOKENS, batch_size=BATCH
    )
    held_out = torch.randn(4096, LONG_D_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        train(stream, config, folder, held_out=held_out, progress=False)
    return resident


def run() -> dict[str, float]:
    """Print the peak, and the growth over many tokens; returns both."""
    parameters = 2 * D_SAE * D_MODEL + D_SAE + D_MODEL
    # Weights and two averages, in float32.
    state = 3 * 4 * parameters
    peak = peak_extra_bytes(prepare, D_SAE)
    print(
        f"training, d_sae={D_SAE}, d_model={D_MODEL}, k={K}, {BATCH} tokens a step: "
        f"peak {megabytes(peak)}, of which weights and optimizer {megabytes(state)} "
        f"and the rest {megabytes(peak - state)}; its limit is {megabytes(LIMIT)}"
    )
    resident = long_training()
    # The buffer is full, and everything has been loaded, after two million.
    growth = resident[-1] - resident[2]
    print(
        f"training on {LONG_TOKENS / 1e6:.0f} million tokens of width {LONG_D_MODEL}: "
        f"{megabytes(resident[2])} after 2 million, {megabytes(resident[-1])} at the "
        f"end, a growth of {growth / 1e6:.1f} MB"
    )
    return {
        "growth_bytes": growth,
        "peak_bytes": peak,
        "state_bytes": state,
        "above_bytes": peak - state,
    }
