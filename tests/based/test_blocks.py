"""A block adds a mixer and an MLP to the stream, each of the normalised stream."""

import pytest
import torch

from sae_lens_ext.based import BasedConfig
from sae_lens_ext.based.blocks import Block, SwiGLU

SHAPE = {"hidden_size": 24, "num_attention_heads": 3, "feature_dim": 4}
LAYERS = ["conv", "linear_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("mlp", ["swiglu", "identity"])
def test_a_block_is_two_residual_steps(layer, mlp):
    config = BasedConfig(num_hidden_layers=4, layer_types=LAYERS, mlp=mlp, **SHAPE)
    block = Block(config, layer)
    x = torch.randn(2, 7, 24)
    middle = x + block.mixer(block.norm1(x))
    expected = middle + block.mlp(block.norm2(middle))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("layer", "window"), [(2, 64), (3, None)])
def test_only_sliding_attention_has_a_window(layer, window):
    config = BasedConfig(num_hidden_layers=4, layer_types=LAYERS, **SHAPE)
    assert Block(config, layer).mixer.window == window


def test_swiglu_is_made_of_its_shown_weights():
    mlp = SwiGLU(BasedConfig(**SHAPE))
    x = torch.randn(2, 7, 24)
    gate = torch.nn.functional.silu(x @ mlp.W_gate)
    torch.testing.assert_close(mlp(x), gate * (x @ mlp.W_in) @ mlp.W_out)
