"""The model of a stream does not run while it is used for something else."""

import threading
import time

import pytest
import torch
import toy

from sae_lens_ext.training import ModelStream, RunConfig, TrainConfig, train

CONFIG = TrainConfig(d_sae=12, k=2, batch_size=16, n_tokens=320)


class Slow(toy.Toy):
    """A toy that takes its time, and notices a second pass meanwhile."""

    def __init__(self):
        super().__init__()
        self.n_running = 0
        self.most_at_once = 0
        self.threads = set()

    def forward(self, ids):
        self.threads.add(threading.current_thread().name)
        self.n_running += 1
        self.most_at_once = max(self.most_at_once, self.n_running)
        time.sleep(0.01)
        self.n_running -= 1
        return super().forward(ids)


@pytest.fixture
def model():
    return Slow()


def stream_of(model, **options):
    rows = toy.rows(60, 9)
    return ModelStream(model, rows, toy.SITE, batch_size=2, buffer_tokens=64, **options)


def test_held_out_tokens_and_measures_are_alone_with_the_model(model):
    def measure(sae):
        with torch.no_grad():
            return {"logit": model(toy.rows(1, 9)).mean()}

    train(
        stream_of(model, overlap=True),
        CONFIG,
        run=RunConfig(eval_every=2, eval_tokens=64),
        held_out=stream_of(model, overlap=True),
        measure=measure,
        progress=False,
    )
    names = {name.partition("_")[0] for name in model.threads}
    assert names == {"MainThread", "activations"}
    assert model.most_at_once == 1


def fails(sae):
    raise ValueError("broken")


@pytest.mark.parametrize("measure", [None, fails])
def test_the_model_is_free_when_the_training_ends(model, measure):
    run = RunConfig(eval_every=2)
    try:
        train(
            stream_of(model, overlap=True),
            CONFIG,
            run=run,
            measure=measure,
            progress=False,
        )
    except ValueError:
        assert measure is fails
    n_passes = model.n_passes
    assert not model.n_running
    time.sleep(0.05)
    assert model.n_passes == n_passes
