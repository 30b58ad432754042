"""Which tokens features promote: the decoder row through the norm's gains and W_U."""

import pytest
import tiny
import torch
from torch import nn

from sae_lens_ext.features.final_norm import final_norm
from sae_lens_ext.features.logit_effects import logit_effects
from sae_lens_ext.features.reader import only_place
from sae_lens_ext.hosts import host_for

SITE = "blocks.1.hook_resid_post"


def with_gains(name):
    """A tiny model whose final norm is not trivial."""
    model = tiny.hf_model(name)
    norm = model.transformer.ln_f if name == "gpt2" else model.model.norm
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(32, generator=generator))
        if name == "gpt2":
            norm.bias.copy_(torch.randn(32, generator=generator))
    return model, norm


def expected_changes(name, norm, model, rows):
    if name == "gpt2":
        behind = (rows - rows.mean(1, keepdim=True)) * norm.weight
    else:
        behind = rows * (1 + norm.weight)
    return behind @ model.lm_head.weight.T


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gains_of_the_final_norm_are_measured(name, dtype):
    model, norm = with_gains(name)
    found = final_norm(host_for(model.to(dtype)))
    assert found.centres == (name == "gpt2")
    gain = norm.weight.float() + (name == "gemma2")
    # Differences of outputs of up to about 4, each rounded once.
    rounding = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.gain, gain.detach(), rtol=0, atol=4 * rounding)


def test_an_odd_width_has_gains_too():
    from sae_lens_ext.features.final_norm import _measured

    norm = nn.LayerNorm(7)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(7) - 2.5)
        found = _measured(norm, torch.zeros(7))
    assert found.centres
    torch.testing.assert_close(found.gain, norm.weight.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", [nn.Tanh(), nn.Linear(8, 8), nn.Softmax(-1)])
def test_what_does_not_compute_a_norm_is_not_taken_for_one(other):
    from sae_lens_ext.features.final_norm import _measured

    with torch.no_grad():
        assert _measured(other, torch.zeros(8)) is None


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_promoted_tokens_have_the_largest_changes(name):
    model, norm = with_gains(name)
    sae = tiny.sae()
    host = host_for(model)
    effects = logit_effects(host, only_place(host, {SITE: sae}), 5)
    rows = (sae.W_dec / sae.activation_scale).detach()
    changes = expected_changes(name, norm, model, rows).detach()
    for kind, descending in (("promoted", True), ("suppressed", False)):
        order = changes.argsort(1, descending=descending)[:, :5]
        assert torch.equal(effects.tensors[f"{kind}.ids"].long(), order)
        torch.testing.assert_close(
            effects.tensors[f"{kind}.effects"],
            changes.gather(1, order),
            rtol=1e-3,
            atol=1e-4,
        )
    assert ("the mean subtracted" in effects.note) == (name == "gpt2")


def test_a_bridge_gives_the_same_as_the_module(gemma2):
    sae = tiny.sae()
    ids = []
    for model in (gemma2, tiny.hf_model("gemma2")):
        host = host_for(model).plain()
        effects = logit_effects(host, only_place(host, {SITE: sae}), 5)
        assert "gains of the final norm" in effects.note
        ids.append(effects.tensors["promoted.ids"])
    assert torch.equal(*ids)


def test_sites_outside_of_the_residual_stream_have_none():
    host = host_for(tiny.hf_model("gpt2"))
    sae = tiny.sae(hook_name="blocks.1.attn.hook_z")
    effects = logit_effects(host, only_place(host, sae), 5)
    assert effects.tensors == {}
    assert "not a direction of the residual stream" in effects.note


def test_a_model_without_a_known_unembedding_has_none():
    model = tiny.hf_model("gpt2").transformer
    host = host_for(model)
    effects = logit_effects(host, only_place(host, {SITE: tiny.sae()}), 5)
    assert effects.tensors == {}
    assert "not known which module" in effects.note
