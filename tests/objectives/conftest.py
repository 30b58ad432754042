"""A batch of activations."""

import pytest
import torch


@pytest.fixture
def u():
    return torch.randn(20, 32)
