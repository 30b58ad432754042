"""ReLU's penalty makes codes sparse."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import ReLU


def test_training_with_a_penalty_leaves_fewer_active_features():
    l0 = {}
    for coefficient in (0.0, 5.0):
        torch.manual_seed(0)
        config = sle.SAEConfig(d_model=16, d_sae=64, kind="relu")
        sae = sle.SAE(config, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            ReLU(coefficient)(sae, torch.randn(128, 16), 8).value.backward()
            optimizer.step()
        l0[coefficient] = sae.encode(torch.randn(256, 16)).l0().double().mean()
    assert l0[5.0] < l0[0.0] / 2


def test_rejects_a_negative_coefficient():
    with pytest.raises(sle.InvalidArgument, match="coefficient must be a non-negative"):
        ReLU(-1.0)
