"""The threshold follows the smallest kept activation of a batch."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives.running_threshold import RunningThreshold


def code_with(*values):
    values = torch.tensor([values], dtype=torch.float64)
    return sle.SparseCode(values, torch.zeros_like(values, dtype=torch.int64), 48)


def test_the_first_batch_counts_fully_and_zeros_do_not_count():
    sae = tiny.sae_of_kind("batchtopk")
    RunningThreshold(0.9).update(sae, code_with(3.0, 0.25, 0.0))
    assert sae.threshold.unique().tolist() == [0.25]


def test_early_batches_are_forgotten_faster_than_the_decay():
    sae = tiny.sae_of_kind("batchtopk")
    running = RunningThreshold(0.5)
    expected = 8.0
    running.update(sae, code_with(8.0))
    for n, smallest in enumerate([4.0, 2.0, 1.0] * 5, start=1):
        running.update(sae, code_with(smallest))
        decay = min(0.5, n / (n + 9))
        expected = decay * expected + (1 - decay) * smallest
        assert sae.threshold.data[7].item() == pytest.approx(expected)


def test_a_batch_without_activations_changes_nothing():
    sae = tiny.sae_of_kind("batchtopk")
    before = sae.threshold.detach().clone()
    RunningThreshold(0.9).update(sae, code_with(0.0, 0.0))
    assert torch.equal(sae.threshold, before)
