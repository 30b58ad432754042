"""Memory of a whole training with a large dictionary, checkpoints included."""

import tempfile
from functools import partial
from typing import Any

import torch

from benchmarks.measure import megabytes, peak_extra_bytes
from sae_lens_ext.training import Activations, RunConfig, TrainConfig, train

D_MODEL = 640
D_SAE = 65_536
K = 64
BATCH = 2048
STEPS = 4
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


def run() -> dict[str, float]:
    """Print the peak; returns it and what it is compared with."""
    parameters = 2 * D_SAE * D_MODEL + D_SAE + D_MODEL
    # Weights and two averages, in float32.
    state = 3 * 4 * parameters
    peak = peak_extra_bytes(prepare, D_SAE)
    print(
        f"training, d_sae={D_SAE}, d_model={D_MODEL}, k={K}, {BATCH} tokens a step: "
        f"peak {megabytes(peak)}, of which weights and optimizer {megabytes(state)} "
        f"and the rest {megabytes(peak - state)}; its limit is {megabytes(LIMIT)}"
    )
    return {"peak_bytes": peak, "state_bytes": state, "above_bytes": peak - state}
