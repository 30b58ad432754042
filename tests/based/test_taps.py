"""Hooks on taps read activations, and change the output only if they edit them."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.based import FEATURE_MAPS
from sae_lens_ext.based.taps import Tap, is_hooked, pass_through

TOKENS = tiny.tokens(2, 11)


def taps(model):
    return [
        (name, module)
        for name, module in model.named_modules()
        if name.rpartition(".")[2].startswith("hook_")
    ]


@pytest.mark.parametrize("kernel", FEATURE_MAPS)
def test_a_hook_that_edits_nothing_leaves_the_logits(kernel):
    model = tiny.based(kernel)
    logits = model(TOKENS).logits
    for name, tap in taps(model):
        handle = tap.register_forward_hook(lambda *_: None)
        torch.testing.assert_close(
            model(TOKENS).logits, logits, rtol=1e-9, atol=1e-9, msg=name
        )
        handle.remove()


@pytest.mark.parametrize("kernel", FEATURE_MAPS)
def test_an_edit_at_every_tap_changes_the_logits(kernel):
    def add_waves(_, __, output):
        # Different for each number, so that a norm does not undo it.
        return output + torch.arange(output.numel()).view(output.shape).sin()

    model = tiny.based(kernel)
    logits = model(TOKENS).logits
    for name, tap in taps(model):
        # As long as beta is 0, the scale of a query cancels.
        cancels = name.endswith("ln_q.hook_scale")
        if "result" in name or cancels:
            continue
        handle = tap.register_forward_hook(add_waves)
        assert (model(TOKENS).logits - logits).abs().max() > 1e-6, name
        handle.remove()


def test_an_edit_in_place_changes_the_logits():
    def double(_, __, output):
        output.mul_(2)
        output[..., 0].add_(1)

    model = tiny.based()
    logits = model(TOKENS).logits
    handle = model.model.layers[1].mixer.hook_state.register_forward_hook(double)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert (model(TOKENS).logits - logits).abs().max() > 1e-6, mode
    handle.remove()


@pytest.mark.parametrize("name", ["hook_pattern", "hook_state", "hook_phi_q"])
def test_rejects_a_hook_that_does_not_return_a_tensor(name):
    model = tiny.based()
    tap = getattr(model.model.layers[1].mixer, name)
    tap.register_forward_hook(lambda *_: 5)
    message = (
        r"a hook must return None or a tensor to replace the one \[2, .*\] that it "
        "received; got 5"
    )
    with pytest.raises(sle.InvalidArgument, match=message):
        model(TOKENS)


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_a_tap_is_hooked_by_hooks_of_every_kind(register):
    tap = Tap()
    handle = getattr(tap, register)(lambda *_: None)
    assert is_hooked(tap)
    handle.remove()
    assert not is_hooked(tap)


def test_a_backward_hook_is_not_an_edit():
    tap = Tap()
    tap.register_full_backward_hook(lambda *_: None)
    tensor = torch.randn(2, 1, 3, requires_grad=True)
    output, is_edited = pass_through(tap, tensor * 2)
    assert output.shape == tensor.shape
    assert not is_edited
