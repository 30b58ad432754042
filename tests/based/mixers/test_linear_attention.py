"""Hooks and the chosen form decide how linear attention is computed."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.based.mixers.linear_attention import LinearAttention

TOKENS = tiny.tokens(2, 11)


def first_z(model, tokens, form):
    """The ``hook_z`` of the first layer of linear attention."""
    mixer = next(
        block.mixer
        for block in model.model.layers
        if isinstance(block.mixer, LinearAttention)
    )
    outputs = []
    mixer.form = form
    handle = mixer.hook_z.register_forward_hook(lambda _, __, z: outputs.append(z))
    with torch.no_grad():
        model(tokens)
    handle.remove()
    return outputs[0]


def test_a_chosen_form_still_passes_hooked_taps_of_the_other():
    model = tiny.based()
    logits = model(TOKENS).logits
    model.set_attention_form("dense")
    model.model.layers[1].mixer.hook_state.register_forward_hook(
        lambda _, __, output: output * 0
    )
    assert (model(TOKENS).logits - logits).abs().max() > 1e-6


def test_rejects_edits_of_both_forms():
    model = tiny.based()
    mixer = model.model.layers[1].mixer
    for tap in (mixer.hook_pattern, mixer.hook_state):
        tap.register_forward_hook(lambda _, __, output: output * 2)
    message = "each of them determines its output; edit one of them in a run"
    with pytest.raises(sle.InvalidArgument, match=message):
        model(TOKENS)


@pytest.mark.parametrize("form", ["auto", "dense", "recurrent"])
def test_sums_stay_wide_under_autocast(form):
    model = tiny.based().float()
    tokens = tiny.tokens(2, 300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = first_z(model, tokens, form)
        expected = first_z(model, tokens, "auto")
        model.set_attention_form(form)
        past = model(tokens[:, :200], use_cache=True).past_key_values
        model(tokens[:, 200:], past_key_values=past, use_cache=True)
    # The input is bfloat16 in all forms, so they differ by float32 and by one rounding
    # to bfloat16 at the end.
    difference = (z.float() - expected.float()).abs().max()
    assert difference <= 2**-7 * expected.abs().max()


@pytest.mark.parametrize("kernel", ["based", "rebased"])
def test_pattern_is_that_of_the_hooked_queries_and_keys(kernel):
    mixer = tiny.based(kernel).model.layers[1].mixer
    values = {}
    for name in ("hook_q", "hook_k", "hook_pattern"):

        def store(_, __, output, name=name):
            values[name] = output

        getattr(mixer, name).register_forward_hook(store)
    mixer(torch.randn(2, 7, 24, dtype=torch.float64))
    pattern = mixer.pattern(values["hook_q"], values["hook_k"])
    torch.testing.assert_close(pattern, values["hook_pattern"])
    torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern.sum(-1)))
