"""The plan says what a training takes."""

import pytest
import torch
from small_training import CONFIG, SITE

import sae_lens_ext as sle
from sae_lens_ext.training import TrainConfig
from sae_lens_ext.training.parallel import Ranks
from sae_lens_ext.training.plan import duration, plan_of

SAE = sle.SAE(
    sle.SAEConfig(d_model=12, d_sae=32, k=4), generator=torch.Generator().manual_seed(0)
)


def test_counts_parameters_and_memory():
    plan = plan_of(SAE, CONFIG, (SITE,), 640, 20)
    assert plan.parameters == 2 * 12 * 32 + 32 + 12
    assert plan.optimizer == 2 * plan.weights == 8 * plan.parameters
    assert plan.memory > 4 * plan.weights
    eight_bit = TrainConfig(d_sae=32, k=4, eight_bit=True)
    assert 4 * plan_of(SAE, eight_bit, (SITE,), 640, 20).optimizer == plan.optimizer


def test_says_so_where_the_disk_is_too_small(tmp_path):
    plan = plan_of(SAE, CONFIG, (SITE,), 640, 20)
    lines = plan.lines(tmp_path, keep_last=2)
    assert "812 parameters, 640 tokens in 20 steps" in lines[0]
    assert "NOT ENOUGH" not in lines[-1]
    assert "NOT ENOUGH" in plan.lines(tmp_path, keep_last=10**15)[-1]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (3599.0, "60.0 min"), (7200.0, "2.0 h")]
)
def test_durations_have_readable_units(seconds, words):
    assert duration(seconds) == words


def test_memory_is_that_of_each_process():
    class Slices(Ranks):
        size = 4

        def most_rows(self, d_sae, n_tokens, k):
            return 7

    plan = plan_of(SAE, CONFIG, (SITE,), 640, 20, Slices())
    alone = plan_of(SAE, CONFIG, (SITE,), 640, 20)
    assert 4 * plan.batch == alone.batch
    assert plan.exchanged == 2 * 7 * SAE.config.d_model * 4
    line = plan.lines()[1]
    assert line.startswith("memory of each of 4 processes, without the model's: ")
    assert line.endswith("exchanged 0.0 MB)")
