"""Prefix sums over chunks hold the state before each, or its gradient after each."""

import pytest
import torch

from sae_lens_ext.kernels.quadratic_attention import FeatureMap, feature_map
from sae_lens_ext.kernels.quadratic_attention.gpu_layout import Layout
from sae_lens_ext.kernels.quadratic_attention.gpu_states import Values, prefix_sums

BASED = FeatureMap((1.0, 1.0, 0.5), 0.5, 1e-12)


@pytest.mark.parametrize("is_reverse", [False, True])
@pytest.mark.parametrize("has_start", [False, True])
@pytest.mark.usefixtures("small")
def test_every_slot_holds_the_sum_of_its_chunks(is_reverse, has_start, device):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 40, 4, generator=g).to(device)
    values = torch.randn(1, 40, 4, generator=g).to(device)
    phi = feature_map(x, BASED.c, BASED.scale)
    start = torch.randn(1, phi.shape[-1], 4, generator=g).to(device)

    # The last column belongs to the normalizer.
    of_x = Values(values[..., :-1].contiguous(), values[..., -1].contiguous())
    layout = Layout(x, of_x.value, BASED, 32)
    states = prefix_sums(
        layout, x, of_x, start if has_start else None, is_reverse=is_reverse
    )

    assert states.kv.shape[1] == 3
    for slot in range(3):
        tokens = slice(slot * 32, None) if is_reverse else slice(0, slot * 32)
        expected = phi[:, tokens].mT @ values[:, tokens]
        if has_start:
            expected += start
        torch.testing.assert_close(states.at(slot), expected, rtol=1e-5, atol=1e-4)
