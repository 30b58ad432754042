"""What draws from the random states of the process goes on as well."""

import random

import numpy as np
import torch

from sae_lens_ext.training.checkpoints.random_states import (
    random_states,
    restore_random_states,
)


def draws():
    return [torch.rand(3).tolist(), random.gauss(0, 1), np.random.randn(3).tolist()]


def test_the_same_numbers_are_drawn_again():
    # A second number of each pair waits in Python's and numpy's states.
    draws()
    tensors, facts = random_states()
    first = draws()
    assert draws() != first
    restore_random_states(tensors, facts)
    assert draws() == first
