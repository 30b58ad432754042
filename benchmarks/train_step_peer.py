"""The part of ``benchmarks.train_step`` that needs SAELens or dictionary_learning.

``benchmarks.train_step`` runs it in an environment with one of them.
"""

import importlib.util
import json
from collections.abc import Callable
from importlib.metadata import version

from torch import Tensor

from benchmarks.measure import side_by_side
from benchmarks.train_step import SIZES, K, batch, our_step
from sae_lens_ext.objectives import HierarchicalTopK

SIZE = SIZES["cpu"]


def saelens_step(x: Tensor) -> Callable[[], object]:
    """The work of SAELens' trainer on a batch, with its TopK SAE as it comes."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=SIZE.d_model, d_sae=SIZE.d_sae, k=K)
    )
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=SIZE.n,
        lr=1e-4,
        lr_end=1e-5,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(config, sae, data_provider=iter(()))
    return lambda: trainer._train_step(sae=sae, sae_in=x)


def dictionary_learning_step(x: Tensor) -> Callable[[], object]:
    """The work of dictionary_learning's TopK trainer on a batch."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10**6,
        activation_dim=SIZE.d_model,
        dict_size=SIZE.d_sae,
        k=K,
        layer=0,
        lm_name="",
        lr=1e-4,
        device="cpu",
        warmup_steps=0,
    )
    steps = iter(range(1, 10**6))
    return lambda: trainer.update(next(steps), x)


def main() -> None:
    """Print one line of JSON: seconds, round by round, of each library's step."""
    name = "sae-lens" if importlib.util.find_spec("sae_lens") else "dictionary-learning"
    x = batch()
    peer = saelens_step(x) if name == "sae-lens" else dictionary_learning_step(x)
    calls = {"ours": our_step(HierarchicalTopK(), x), "peer": peer}
    times = side_by_side(calls, rounds=7)
    print(json.dumps({"name": f"{name} {version(name)}", "times": times}))


main()
