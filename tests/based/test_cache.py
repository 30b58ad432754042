"""A cache continues a text exactly, does not grow, and belongs to its own model."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.based import BasedCache

LAYERS = [
    "conv",
    "linear_attention",
    "sliding_attention",
    "full_attention",
    "linear_attention",
]
TOKENS = tiny.tokens(2, 11)


@pytest.mark.parametrize("kernel", ["based", "rebased"])
def test_tokens_one_by_one_have_the_logits_of_the_whole_text(kernel):
    model = tiny.based(kernel)
    whole = model(TOKENS, use_cache=False).logits
    cache = BasedCache(5)
    pieces = []
    for token in TOKENS.split(1, dim=1):
        outputs = model(token, past_key_values=cache, use_cache=True)
        pieces.append(outputs.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-9, atol=1e-9)
    assert cache.get_seq_length() == TOKENS.shape[1]


def test_the_cache_does_not_grow():
    layers = [
        "conv",
        "linear_attention",
        "sliding_attention",
        "conv",
        "linear_attention",
    ]
    model = tiny.based(layer_types=layers)
    cache = BasedCache(5)
    model(tiny.tokens(2, 6), past_key_values=cache, use_cache=True)
    n_elements = cache.n_elements()
    model(tiny.tokens(2, 90), past_key_values=cache, use_cache=True)
    assert cache.n_elements() == n_elements


@pytest.mark.parametrize("form", ["auto", "dense", "recurrent"])
def test_the_cache_holds_only_the_memory_of_its_tensors(form):
    model = tiny.based()
    model.set_attention_form(form)
    cache = BasedCache(5)
    for piece in tiny.tokens(2, 90).split(30, dim=1):
        model(piece, past_key_values=cache, use_cache=True)
    for layer, layer_cache in enumerate(cache.layers):
        for name, tensor in layer_cache.items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, (layer, name)


def test_reset_empties_the_cache():
    cache = tiny.based()(TOKENS).past_key_values
    assert cache.n_texts() == 2
    cache.reset()
    assert cache.n_texts() is None
    assert cache.n_elements() == cache.get_seq_length() == 0


@pytest.mark.parametrize(
    "place", ["model.layers.3", "model.layers.4.mixer.hook_pattern", "model.norm"]
)
def test_a_pass_that_raises_leaves_the_cache_as_it_was(place):
    def fail(*_):
        raise RuntimeError("by a hook")

    model = tiny.based()
    cache = model(TOKENS[:, :6], use_cache=True).past_key_values
    handle = model.get_submodule(place).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="by a hook"):
        model(TOKENS[:, 6:9], past_key_values=cache)
    handle.remove()

    assert cache.seen == 6
    torch.testing.assert_close(
        model(TOKENS[:, 6:], past_key_values=cache).logits, model(TOKENS).logits[:, 6:]
    )


def test_rejected_edits_leave_the_cache_as_it_was():
    model = tiny.based()
    cache = model(TOKENS[:, :6], use_cache=True).past_key_values
    mixer = model.model.layers[4].mixer
    handles = [
        tap.register_forward_hook(lambda _, __, output: output * 2)
        for tap in (mixer.hook_pattern, mixer.hook_state)
    ]
    with pytest.raises(sle.InvalidArgument, match="each of them determines its output"):
        model(TOKENS[:, 6:], past_key_values=cache)
    for handle in handles:
        handle.remove()

    torch.testing.assert_close(
        model(TOKENS[:, 6:], past_key_values=cache).logits, model(TOKENS).logits[:, 6:]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layer_types": LAYERS[1:] + LAYERS[:1]},
            r"a layer that stores conv \[2, 48\] .* got kv \[3, 10, 8\] .*, k \[3, 10]",
        ),
        (
            {"layer_types": LAYERS[:1] + LAYERS[2:] + LAYERS[1:2]},
            r"stores kv \[3, 10, 8\], k \[3, 10\] .* got keys .*, seen \[\]",
        ),
        (
            {"layer_types": [*LAYERS[:2], "conv", *LAYERS[3:]]},
            r"stores keys .* got conv \[2, 48\]",
        ),
        ({"hidden_size": 48}, r"stores conv \[2, 48\] .* got conv \[2, 96\]"),
        ({"conv_kernel_size": 4}, r"got conv \[3, 48\]"),
        ({"feature_dim": 5}, r"got kv \[3, 15, 8\]"),
        ({"num_attention_heads": 2}, r"got kv \[2, 10, 12\]"),
        (
            {"sliding_window": 2},
            r"stores keys \[3, 3, 8\], .* got keys \[2, 3, 8\]",
        ),
    ],
)
def test_rejects_a_cache_of_another_model(changes, message):
    cache = tiny.based(**changes)(TOKENS).past_key_values
    expected = "past_key_values must be the BasedCache that this model returned; .*"
    with pytest.raises(sle.InvalidArgument, match=expected + message):
        tiny.based()(TOKENS, past_key_values=cache)


@pytest.mark.parametrize("layer", ["conv", "linear_attention", "sliding_attention"])
@pytest.mark.parametrize(
    ("own", "other"),
    [
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float64),
    ],
)
def test_rejects_a_cache_of_another_dtype(layer, own, other):
    shape = {"num_hidden_layers": 1, "layer_types": [layer]}
    model = tiny.based(**shape).to(own)
    cache = tiny.based(**shape).to(other)(TOKENS).past_key_values
    with pytest.raises(
        sle.InvalidArgument, match=rf"per text \({own}\) got .* {other}"
    ):
        model(TOKENS, past_key_values=cache)


@pytest.mark.parametrize("begins_in_autocast", [True, False])
def test_a_cache_can_leave_or_enter_autocast(begins_in_autocast):
    model = tiny.based().float()
    cache = BasedCache(5)
    with torch.autocast("cpu", torch.bfloat16, enabled=begins_in_autocast):
        model(TOKENS[:, :6], past_key_values=cache, use_cache=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=not begins_in_autocast):
        logits = model(TOKENS[:, 6:], past_key_values=cache, use_cache=True).logits
    expected = model(TOKENS).logits[:, 6:]
    assert (logits - expected).norm() < 0.05 * expected.norm()
