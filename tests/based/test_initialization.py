"""Random weights have the published scales."""

import pytest
import tiny
import torch

from sae_lens_ext.based.initialization import ResidualLinear
from sae_lens_ext.based.norms import Norm, QueryKeyNorm


@pytest.mark.parametrize(("is_rescaled", "share"), [(True, 10**-0.5), (False, 1.0)])
def test_weights_that_write_into_the_stream_begin_smaller(is_rescaled, share):
    model = tiny.based(
        hidden_size=192, initializer_range=0.1, rescale_prenorm_residual=is_rescaled
    )
    stds = {
        name: weight.std().item()
        for name, weight in model.named_parameters()
        if name.endswith("proj.weight")
    }
    writers = {
        name
        for name in stds
        if name.split(".")[-2] in ("o_proj", "out_proj", "down_proj")
    }
    assert len(writers) == 2 * 5
    for name, std in stds.items():
        expected = 0.1 * share if name in writers else 0.1
        assert std == pytest.approx(expected, rel=0.05), name


def test_norms_begin_at_the_identity_and_biases_at_zero():
    for module in tiny.based(norm="layer").modules():
        if isinstance(module, Norm | QueryKeyNorm):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
        if isinstance(module, Norm | QueryKeyNorm | ResidualLinear):
            assert module.bias is None or not module.bias.any()
