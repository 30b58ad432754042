"""The part of ``benchmarks.train_run`` that needs SAELens.

``python -m benchmarks.train_run_saelens FOLDER`` trains on a cache of activations, with
this package and with SAELens' trainer, and prints one line of JSON.
"""

import json
import sys
from importlib.metadata import version

import torch
from torch import Tensor

from benchmarks.measure import side_by_side
from benchmarks.train_run import CONFIG, ROUNDS, train_on
from sae_lens_ext.training import CacheStream


def activations(folder: str) -> Tensor:
    """All of a cache, so that SAELens reads from memory."""
    stream = CacheStream(folder)
    (site,) = stream.sites
    batches = []
    while len(batch := stream.next_batch(CONFIG.batch_size)[site]):
        batches.append(batch)
    return torch.cat(batches)


def saelens_training(values: Tensor) -> None:
    """Train SAELens' TopK SAE on all of it, by its trainer."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    d_in = values.shape[1]
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=d_in, d_sae=CONFIG.d_sae, k=CONFIG.k)
    )
    config = SAETrainerConfig(
        total_training_samples=len(values),
        train_batch_size_samples=CONFIG.batch_size,
        lr=CONFIG.lr,
        lr_end=CONFIG.lr / 10,
        logger=LoggingConfig(log_to_wandb=False),
    )
    batches = (
        values[start : start + CONFIG.batch_size]
        for start in range(0, len(values), CONFIG.batch_size)
    )
    SAETrainer(config, sae, data_provider=batches).fit()


def main() -> None:
    """Print the seconds, round by round, of each library."""
    folder = sys.argv[1]
    values = activations(folder)
    calls = {
        "ours": lambda: train_on(CacheStream(folder)),
        "saelens": lambda: saelens_training(values),
    }
    times = side_by_side(calls, rounds=ROUNDS)
    print(json.dumps({"version": version("sae_lens"), "times": times}))


main()
