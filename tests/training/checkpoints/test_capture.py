"""Everything that a training changes is in its checkpoint."""

import dataclasses

import pytest
import small_training
import torch
from small_training import CONFIG, SITE, MemoryStream

import sae_lens_ext as sle
from sae_lens_ext.objectives import TopK
from sae_lens_ext.training.checkpoints.capture import (
    captured,
    restore,
    statistics_of,
    stream_state_of,
)
from sae_lens_ext.training.checkpoints.store import Checkpoint
from sae_lens_ext.training.setup import new_trainer


class Noisy(TopK):
    """An objective that draws, and counts its calls."""

    def __init__(self):
        object.__setattr__(self, "generator", torch.Generator().manual_seed(5))
        object.__setattr__(self, "calls", [0])

    def __call__(self, sae, u, k, **options):
        self.calls[0] += 1
        noise = torch.randn(u.shape, generator=self.generator)
        return super().__call__(sae, u + 0.1 * noise, k, **options)

    def state_dict(self):
        return {"generator": self.generator.get_state(), "calls": self.calls[0]}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])
        self.calls[0] = state["calls"]


NOISY = dataclasses.replace(
    CONFIG, objective=Noisy(), revive_every=4, dead_after=64, k_start=8
)


def trainer_for(config, stream=None):
    stream = MemoryStream(n_tokens=640) if stream is None else stream
    generator = torch.Generator().manual_seed(config.seed)
    return new_trainer(stream, config, generator, torch.device("cpu"))


def take_steps(trainer, n):
    for _ in range(n):
        trainer.step(trainer.next_batch())


def test_a_restored_training_takes_the_same_steps():
    first = trainer_for(NOISY)
    take_steps(first, 7)
    checkpoint = captured(
        first.state,
        first.normalization.statistics,
        first.stream.state(),
        metrics_size=11,
    )
    # As from a file: the training goes on changing its own tensors.
    tensors = {
        group: {name: tensor.detach().clone() for name, tensor in named.items()}
        for group, named in checkpoint.tensors.items()
    }
    checkpoint = Checkpoint(tensors, checkpoint.facts)
    take_steps(first, 6)

    second = trainer_for(NOISY)
    restore(second.state, checkpoint)
    second.stream.restore(stream_state_of(checkpoint))
    assert second.state.step == 7
    assert second.state.n_tokens == 7 * 32
    assert second.state.objective.calls == [7]
    take_steps(second, 6)

    assert small_training.same_weights(first.state.sae, second.state.sae)
    assert first.state.losses.tolist() == second.state.losses.tolist()
    assert torch.equal(first.state.activity.idle, second.state.activity.idle)
    constants = statistics_of(checkpoint)[SITE]
    assert torch.equal(constants.mean, first.normalization.statistics[SITE].mean)


def test_a_run_of_an_objective_with_a_state_goes_on(tmp_path):
    undisturbed = small_training.run(tmp_path / "whole", NOISY)
    with pytest.raises(KeyboardInterrupt):
        small_training.run(
            tmp_path / "cut", NOISY, stream=small_training.stopped(32 * 8)
        )
    resumed = small_training.run(tmp_path / "cut", NOISY)
    assert small_training.same_weights(undisturbed.sae, resumed.sae)
    # The config has none of it.
    assert NOISY.objective.calls == [0]


def test_rejects_the_checkpoint_of_another_training():
    first = trainer_for(CONFIG)
    take_steps(first, 1)
    statistics = first.normalization.statistics
    checkpoint = captured(first.state, statistics, first.stream.state(), 0)
    wider = trainer_for(dataclasses.replace(CONFIG, d_sae=64))
    with pytest.raises(sle.FormatError, match=r"\[12, 32\] there and \[12, 64\] here"):
        restore(wider.state, checkpoint)

    incomplete = Checkpoint({**checkpoint.tensors, "counters": {}}, checkpoint.facts)
    with pytest.raises(sle.FormatError, match="it is not a checkpoint of this run"):
        restore(trainer_for(CONFIG).state, incomplete)
    other_step = Checkpoint(checkpoint.tensors, {**checkpoint.facts, "step": 5})
    with pytest.raises(sle.FormatError, match="a checkpoint of step 5 has 1 losses"):
        restore(trainer_for(CONFIG).state, other_step)
