"""Logits change along a direction as the unembedding says, block by block."""

import pytest
import torch
from torch import nn

from sae_lens_ext.features import unembedding
from sae_lens_ext.features.unembedding import Unembedding


class Scaled(nn.Linear):
    """Not its weight alone."""

    def forward(self, x):
        return 2 * super().forward(x)


class Saturated(nn.Linear):
    """Not linear."""

    def forward(self, x):
        return super().forward(x).tanh()


def changes(module, directions):
    found = Unembedding.of(module, 11, 5)
    blocks = [found.changes(directions, *block) for block in found.blocks()]
    return found, torch.cat(blocks, dim=1)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_matrix_is_multiplied_in_blocks(monkeypatch, has_bias, dtype):
    monkeypatch.setattr(unembedding, "_N_TOKENS", 4)
    module = nn.Linear(5, 11, bias=has_bias).to(dtype)
    directions = torch.randn(3, 5)
    found, changed = changes(module, directions)
    assert list(found.blocks()) == [(0, 4), (4, 8), (8, 11)]
    exact = directions.to(dtype).float() @ module.weight.detach().float().T
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(changed, exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", [Scaled, Saturated])
def test_what_does_more_than_its_matrix_is_called(kind):
    module = kind(5, 11)
    directions = torch.randn(3, 5)
    found, changed = changes(module, directions)
    assert found.matrix is None
    assert list(found.blocks()) == [(0, 11)]
    expected = module(directions) - module(torch.zeros(5))
    torch.testing.assert_close(changed, expected.detach())


def test_a_module_without_a_matrix_of_this_shape_is_called():
    module = nn.Sequential(nn.Linear(5, 11))
    directions = torch.randn(3, 5)
    found, changed = changes(module, directions)
    assert found.matrix is None
    torch.testing.assert_close(changed, directions @ module[0].weight.detach().T)
