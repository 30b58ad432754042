"""The losses of all steps, and the stop where one is not finite."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.training.losses import Losses


def test_keeps_all_losses_and_averages_the_last():
    losses = Losses()
    for value in (4.0, 2.0, 1.0):
        losses.add(torch.tensor(value))
    assert len(losses) == 3
    assert losses.tolist() == [4.0, 2.0, 1.0]
    assert losses.mean_of_last(2) == 1.5
    assert losses.mean_of_last(9) == pytest.approx(7 / 3)


def test_the_error_names_the_step_and_ends_in_the_advice():
    losses = Losses(advice=" of 9; rest")
    losses.add(torch.tensor(1.0))
    with pytest.raises(sle.NonFinite, match="the loss became nan at step 2 of 9; rest"):
        losses.add(torch.tensor(float("nan")))


def test_losses_of_a_gpu_are_read_several_at_once():
    losses = Losses(device="cuda")
    losses.add(torch.tensor(1.0))
    losses.add(torch.tensor(float("inf")))
    assert len(losses) == 2
    with pytest.raises(sle.NonFinite, match="the loss became inf at step 2"):
        losses.settle()


def test_survives_saving():
    losses = Losses()
    losses.restore(torch.tensor([0.1, 0.2], dtype=torch.float64))
    losses.add(torch.tensor(0.5))
    assert losses.tensor().tolist() == [0.1, 0.2, 0.5]
