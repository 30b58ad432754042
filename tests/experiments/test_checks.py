"""Objects of other kinds are rejected by name, before anything is made."""

from pathlib import Path

import numpy as np
import pytest
import quick_recall
import torch

import sae_lens_ext as sle
from sae_lens_ext.based import BasedForCausalLM
from sae_lens_ext.experiments import recall
from sae_lens_ext.experiments.pretraining.compare import compare_kernels
from sae_lens_ext.experiments.pretraining.config import PretrainConfig, TextConfig
from sae_lens_ext.experiments.pretraining.perplexity import perplexity, recall_mask
from sae_lens_ext.experiments.recall.grid import grid

pytestmark = pytest.mark.usefixtures("without_shape_checks")

TASK = quick_recall.TASK
RECIPE = quick_recall.RECIPE
IDS = torch.zeros(2, 8, dtype=torch.int64)
OUT = Path("never", "made")

CALLS = {
    "recipe must be a Recipe; got an object of type str": lambda: recall.train_mqar(
        "rebased", TASK
    ),
    "task must be a MQAR; got None": lambda: recall.model_for(RECIPE, None),
    r"recipes\[1\] must be a Recipe; got None": lambda: recall.train_grid(
        TASK, [RECIPE, None], OUT
    ),
    "recipes must be a list of Recipe; got an object of": lambda: recall.train_grid(
        TASK, RECIPE, OUT
    ),
    "table must be the path of a CSV file; got None": lambda: recall.train_grid(
        TASK, [RECIPE], None
    ),
    "kernels must be a list; got 'based'": lambda: grid(RECIPE, "based", [1e-3], [0]),
    "lrs must be a list; got 0.001": lambda: grid(RECIPE, ["based"], 1e-3, [0]),
    "model must be a BasedForCausalLM; got None": lambda: recall.accuracy(
        None, IDS, IDS
    ),
    "labels must be a torch tensor; got an object of type ndarray": (
        lambda: recall.answers_at(IDS, np.zeros((2, 8)))
    ),
    "pattern must be a torch tensor; got None": lambda: recall.soft_iou(None, IDS),
    "rows must be a torch tensor; got an object of type list": lambda: recall_mask(
        [[1, 2]]
    ),
    "model must be a language model of transformers": lambda: perplexity(None, IDS),
    "config must be a PretrainConfig; got an object of type dict": (
        lambda: compare_kernels(["based"], OUT, {}, TextConfig())
    ),
    "kernels must be a list; got 'rebased'": lambda: compare_kernels(
        "rebased", OUT, PretrainConfig(), TextConfig()
    ),
    "config must be a BasedConfig; got an object of type dict": (
        lambda: BasedForCausalLM({"hidden_size": 8})
    ),
}


@pytest.mark.parametrize("message", CALLS)
def test_rejects_objects_of_other_kinds(message):
    with pytest.raises(sle.InvalidArgument, match=message):
        CALLS[message]()
    assert not OUT.parent.exists()


@pytest.mark.parametrize(
    ("n", "generator", "message"),
    [
        (2, torch.Generator(), "must be a numpy.random.Generator, .* torch._C.Gener"),
        (2, None, "generator must be a numpy.random.Generator, such as .*NoneType"),
        (2, 0, r"such as numpy.random.default_rng\(0\); got an object of .*int"),
        (2.5, np.random.default_rng(0), "n must be a non-negative integer; got 2.5"),
        (-1, np.random.default_rng(0), "n must be a non-negative integer; got -1"),
    ],
)
def test_sequences_are_drawn_by_generators_of_numpy(n, generator, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        TASK.sample(n, generator)
