"""The forms of linear attention agree, and edits act as their formulas say."""

import pytest
import tiny
import torch
from torch import nn

import sae_lens_ext as sle
from sae_lens_ext.based import BasedCache
from sae_lens_ext.based.mixers import forms
from sae_lens_ext.based.mixers.linear_attention import LinearAttention
from sae_lens_ext.based.taps import Tap
from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap

TOKENS = tiny.tokens(2, 11)
FEATURE_MAP = FeatureMap((1.0, 1.0, 0.5), 0.5, 1e-12)


def first_linear_attention(model):
    return next(
        block.mixer
        for block in model.model.layers
        if isinstance(block.mixer, LinearAttention)
    )


def attention_inputs(pos, state=None, returns_state=True):
    q, k, v = (torch.randn(2, 3, pos, 4, dtype=torch.float64) for _ in range(3))
    return forms.AttentionInputs(q, k, v, state, returns_state)


def dense(inputs, taps=None, shows_features=False):
    taps = taps or forms.DenseTaps(*(Tap() for _ in range(6)))
    return forms.dense(inputs, FEATURE_MAP, taps, shows_features=shows_features)


def recurrent(inputs):
    taps = forms.RecurrentTaps(Tap(), Tap(), Tap())
    return forms.recurrent(inputs, FEATURE_MAP, taps)


@pytest.mark.parametrize("shows_features", [False, True])
@pytest.mark.parametrize("continues", [False, True])
def test_all_forms_agree(shows_features, continues):
    state = None
    if continues:
        state = forms.fastest(attention_inputs(5), FEATURE_MAP).state
    inputs = attention_inputs(7, state)
    expected = forms.fastest(inputs, FEATURE_MAP)
    for output in (
        dense(inputs, shows_features=shows_features),
        recurrent(inputs),
    ):
        torch.testing.assert_close(output.z, expected.z)
        torch.testing.assert_close(output.state.kv, expected.state.kv)
        torch.testing.assert_close(output.state.k, expected.state.k)
        assert not output.is_edited


def test_no_form_returns_a_state_that_is_not_needed():
    inputs = attention_inputs(7, returns_state=False)
    for output in (
        forms.fastest(inputs, FEATURE_MAP),
        dense(inputs, shows_features=True),
        recurrent(inputs),
    ):
        assert output.state is None


def test_rejects_edits_of_scores_and_features():
    def double(_, __, output):
        return output * 2

    taps = forms.DenseTaps(*(Tap() for _ in range(6)))
    taps.scores.register_forward_hook(double)
    taps.phi_k.register_forward_hook(double)
    with pytest.raises(
        sle.InvalidArgument, match="each of them determines its weights"
    ):
        dense(attention_inputs(7), taps, shows_features=True)


def test_an_edited_write_is_remembered_and_an_edited_state_is_not():
    model = tiny.based()
    mixer: nn.Module = model.model.layers[1].mixer
    position = 4
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 9, 24, generator=generator, dtype=torch.float64)
    plain = mixer(x)

    def triple(_, __, output):
        edited = output.clone()
        edited[:, position] *= 3
        return edited

    for name, reached in (("hook_write", [4, 5, 6, 7, 8]), ("hook_state", [4])):
        handle = getattr(mixer, name).register_forward_hook(triple)
        differences = (mixer(x) - plain).abs().amax((0, 2))
        handle.remove()
        assert (differences > 1e-12).nonzero().flatten().tolist() == reached, name


def test_a_state_edited_in_place_is_not_remembered():
    model = tiny.based()
    cache = BasedCache(5)
    handle = model.model.layers[4].mixer.hook_state.register_forward_hook(
        lambda _, __, output: output.mul_(2)
    )
    model(TOKENS[:, :6], past_key_values=cache, use_cache=True)
    handle.remove()
    torch.testing.assert_close(
        model(TOKENS[:, 6:], past_key_values=cache).logits, model(TOKENS).logits[:, 6:]
    )


@pytest.mark.parametrize("eps", [1.2e-38, 1e-12])
def test_every_form_accepts_the_eps_that_a_config_accepts(eps):
    model = tiny.based(attention_eps=eps).float()
    logits = model(TOKENS).logits
    for form in ("dense", "recurrent"):
        model.set_attention_form(form)
        torch.testing.assert_close(model(TOKENS).logits, logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "names",
    [
        ["hook_phi_q", "hook_phi_k"],
        ["hook_write"],
        ["hook_state"],
        ["hook_attn_scores", "hook_kernel"],
    ],
)
def test_taps_of_one_form_have_the_gradients_of_its_output(names):
    model = tiny.based()
    mixer = first_linear_attention(model)
    activations = {}
    handles = []
    for name in names:

        def store(_, __, output, name=name):
            output.retain_grad()
            activations[name] = output

        handles.append(getattr(mixer, name).register_forward_hook(store))
    model(TOKENS).logits.square().sum().backward()
    for handle in handles:
        handle.remove()

    def loss_with(name, offset):
        handle = getattr(mixer, name).register_forward_hook(
            lambda _, __, output: output + offset
        )
        loss = model(TOKENS).logits.square().sum().item()
        handle.remove()
        return loss

    step = 1e-6
    for name, tensor in activations.items():
        assert tensor.grad is not None, name
        direction = torch.randn_like(tensor)
        if name == "hook_kernel":
            direction = direction.tril()
        above = loss_with(name, step * direction)
        below = loss_with(name, -step * direction)
        expected = (tensor.grad * direction).sum().item()
        assert (above - below) / (2 * step) == pytest.approx(expected, rel=1e-4)
