"""Every objective trains all weights and returns the encoder's code."""

import pytest
import tiny
import torch

from sae_lens_ext.objectives import HierarchicalTopK, Objective, TopK


@pytest.mark.parametrize(
    "objective", [TopK(), HierarchicalTopK(), HierarchicalTopK(levels=(1, 8))], ids=str
)
def test_every_weight_learns_and_the_code_is_the_encoders(u, objective):
    assert isinstance(objective, Objective)
    sae = tiny.sae()
    loss = objective(sae, u, 8)
    loss.value.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in sae.parameters())
    assert torch.equal(loss.code.values, sae.encode(u, 8).values)
    assert not loss.code.values.requires_grad
