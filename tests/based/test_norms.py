"""Norms compute the same with taps as without, in the layout that the config names."""

import pytest
import tiny
import torch

from sae_lens_ext.based import BasedConfig, BasedForCausalLM
from sae_lens_ext.based.norms import Norm, QueryKeyNorm

SHAPE = {"hidden_size": 24, "num_attention_heads": 3, "feature_dim": 4}


def hooked_values(module, names, x):
    values = {}
    for name in names:

        def store(_, __, output, name=name):
            values[name] = output

        getattr(module, name).register_forward_hook(store)
    return module(x), values


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_hooked_norm_equals_the_fast_one(norm, dtype):
    module = Norm(BasedConfig(norm=norm, **SHAPE)).to(dtype)
    x = torch.randn(2, 5, 24, dtype=dtype)
    plain = module(x)
    output, values = hooked_values(module, ["hook_scale", "hook_normalized"], x)
    torch.testing.assert_close(output, plain)
    assert output.dtype == dtype
    assert values["hook_scale"].shape == (2, 5, 1)
    assert values["hook_normalized"].shape == x.shape


@pytest.mark.parametrize(
    ("layout", "scale_shape"), [("wide", (2, 5, 1)), ("shared", (2, 5, 3, 1))]
)
def test_query_norm_is_over_all_heads_or_over_each(layout, scale_shape):
    module = QueryKeyNorm(BasedConfig(norm_layout=layout, **SHAPE))
    x = torch.randn(2, 5, 3, 4)
    output, values = hooked_values(module, ["hook_scale"], x)
    assert values["hook_scale"].shape == scale_shape
    assert output.shape == x.shape

    axes = (-2, -1) if layout == "wide" else (-1,)
    means = output.mean(axes)
    torch.testing.assert_close(means, torch.zeros_like(means), rtol=0, atol=1e-6)


def test_a_feature_map_without_a_norm_has_no_taps_of_it():
    module = QueryKeyNorm(BasedConfig(kernel="affine_square", **SHAPE))
    assert [name for name, _ in module.named_children()] == []
    torch.nn.init.constant_(module.weight, 3.0)
    torch.nn.init.constant_(module.bias, 1.0)
    x = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(module(x), 3 * x + 1)


def test_a_norm_shared_by_queries_and_keys_is_saved_and_loaded(tmp_path):
    tokens = tiny.tokens(2, 11)
    model = tiny.based(norm_layout="shared", tie_word_embeddings=False)
    torch.nn.init.normal_(model.model.layers[1].mixer.ln_q.weight)
    model.save_pretrained(tmp_path)
    loaded = BasedForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)
