"""The short convolution is the published formula, and its taps add up to it."""

import pytest
import torch
from torch.nn import functional as F

from sae_lens_ext.based import BasedConfig
from sae_lens_ext.based.mixers.convolution import ShortConvolution

D_MODEL = 12


def convolution(form):
    config = BasedConfig(hidden_size=D_MODEL, num_attention_heads=3, conv_form=form)
    module = ShortConvolution(config)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def convolved(module, source):
    """Every channel's last three tokens, by the definition."""
    weight = module.conv.weight.squeeze(1)  # [channel, tap]
    padded = F.pad(source, (0, 0, 2, 0))
    pos = source.shape[1]
    taps = [padded[:, tap : tap + pos] * weight[:, tap] for tap in range(3)]
    total = sum(taps)
    return total if module.conv.bias is None else total + module.conv.bias


def test_gated_form():
    module = convolution("gated")
    x = torch.randn(2, 7, D_MODEL)
    source, gate = module.in_proj(x).chunk(2, dim=-1)
    expected = module.out_proj(F.silu(convolved(module, source)) * gate)
    torch.testing.assert_close(module(x), expected)


def test_base_form():
    module = convolution("base")
    x = torch.randn(2, 7, D_MODEL)
    expected = convolved(module, x) * module.in_proj(x) + x
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("form", ["gated", "base"])
@pytest.mark.parametrize("name", ["hook_conv_taps", "hook_result"])
def test_hooked_taps_leave_the_output(form, name):
    module = convolution(form)
    x = torch.randn(2, 7, D_MODEL)
    expected = module(x)
    values = []
    tap = getattr(module, name)
    tap.register_forward_hook(lambda _, __, output: values.append(output))
    torch.testing.assert_close(module(x), expected)
    assert len(values) == 1


def test_head_0_holds_the_whole_result():
    module = convolution("gated")
    values = []
    module.hook_result.register_forward_hook(lambda _, __, out: values.append(out))
    output = module(torch.randn(2, 7, D_MODEL))
    torch.testing.assert_close(values[0][:, :, 0] + module.b_O, output)
    assert not values[0][:, :, 1:].any()


def test_only_the_gated_form_has_an_output_bias():
    assert convolution("gated").b_O.shape == (D_MODEL,)
    assert not hasattr(convolution("base"), "b_O")
