"""Runs with attention patterns and norms held keep their values and lose gradients."""

import linear_models
import pytest
import tiny
import torch
from torch import nn

import sae_lens_ext as sle
from sae_lens_ext.circuits.freezing import Freezing
from sae_lens_ext.hosts import as_batch, host_for

BOTH = ("attention", "norms")


def recorded_and_replayed(model, kinds=BOTH, rows=None):
    """Logits of a bare, a recorded and a replayed run."""
    host = host_for(model)
    batch = as_batch(tiny.tokens(2, 7))
    freezing = Freezing(host, kinds)
    with torch.no_grad():
        bare = host.logits(batch)
        with freezing.recording():
            recorded = host.logits(batch)
        selected = batch if rows is None else batch[rows]
        with freezing.replaying(None if rows is None else torch.tensor(rows)):
            replayed = host.logits(selected)
    return bare, recorded, replayed


MODELS = {
    **{name: lambda name=name: tiny.hf_model(name) for name in ("gemma2", "gemma3")},
    "gpt2": lambda: tiny.hf_model("gpt2", attention="eager"),
    "gpt2, sdpa": lambda: tiny.hf_model("gpt2", attention="sdpa"),
    "llama, sdpa": lambda: linear_models.linear_model("llama", "sdpa"),
    "based": lambda: tiny.based("based"),
    "rebased": lambda: tiny.based("rebased"),
    "bridge": lambda: tiny.bridge("gemma2"),
    "bridge of gpt2": lambda: tiny.bridge("gpt2"),
}


@pytest.mark.parametrize("name", MODELS)
def test_forward_values_keep_their_bits(name):
    model = MODELS[name]()
    before = tiny.hooks_of(model)
    bare, recorded, replayed = recorded_and_replayed(model)
    assert torch.equal(recorded, bare)
    assert torch.equal(replayed, bare)
    assert tiny.hooks_of(model) == before


@pytest.mark.parametrize("name", ["gemma2", "llama, sdpa", "rebased"])
def test_rows_are_replayed_in_any_order(name):
    bare, _, replayed = recorded_and_replayed(MODELS[name](), rows=[1, 0, 1])
    assert torch.allclose(replayed, bare[[1, 0, 1]], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "attention"),
    [("attention", "eager"), ("attention", "sdpa"), ("norms", "")],
)
def test_each_kind_is_held_by_itself(kind, attention):
    model = linear_models.linear_model("llama", attention or "eager")
    host = host_for(model)
    batch = as_batch(tiny.tokens(1, 6))
    other = as_batch(tiny.tokens(1, 6, seed=1))
    freezing = Freezing(host, (kind,))
    with torch.no_grad():
        with freezing.recording():
            host.logits(batch)
        with freezing.replaying():
            held = host.logits(other)
        free = host.logits(other)
    # Another text, with the patterns or the norms of the first.
    assert (held - free).abs().max() > 1e-2


def test_the_patterns_are_those_of_the_recorded_run():
    model = linear_models.linear_model("llama")
    host = host_for(model)
    batch = as_batch(tiny.tokens(1, 6))
    freezing = Freezing(host, ("attention",))
    with torch.no_grad(), freezing.recording():
        model(batch.ids, output_attentions=True)
    with torch.no_grad(), freezing.replaying():
        held = model(tiny.tokens(1, 6, seed=1), output_attentions=True).attentions
    with torch.no_grad():
        expected = model(batch.ids, output_attentions=True).attentions
    for pattern, expected_pattern in zip(held, expected, strict=True):
        assert torch.equal(pattern, expected_pattern)


def test_no_gradient_passes_queries_and_keys():
    model = linear_models.linear_model("gpt2", "sdpa")
    host = host_for(model)
    freezing = Freezing(host, ("attention",))
    with freezing.recording():
        host.logits(as_batch(tiny.tokens(1, 6))).square().sum().backward()
    weight = model.transformer.h[1].attn.c_attn.weight.grad
    assert not weight[:, :64].any()
    assert weight[:, 64:].abs().min() > 0


class Unknown(nn.Module):
    """Attention by a softmax of three axes, and a norm by a division alone."""

    def forward(self, x):
        x = x / (x * x).mean(-1, keepdim=True)
        return (x @ x.mT).softmax(-1) @ x


class UnknownNorm(nn.Module):
    def forward(self, x):
        return x / x.abs().amax(-1, keepdim=True)


class Model(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.embed = nn.Embedding(len(tiny.WORDS), 8)
        self.blocks = nn.ModuleList([nn.Sequential(*parts) for _ in range(2)])

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize(
    ("kind", "model", "message"),
    [
        ("attention", Model(Unknown(), nn.Linear(8, 8)), "in block 0 .* attention"),
        ("norms", Model(Unknown(), nn.Linear(8, 8)), "in block 0 .* norms"),
        ("norms", Model(nn.LayerNorm(8), UnknownNorm()), "0.1, a UnknownNorm, there"),
    ],
)
def test_what_cannot_be_held_raises(kind, model, message):
    with pytest.raises(sle.UnsupportedHost, match=message):
        recorded_and_replayed(model, (kind,))


def test_a_model_without_blocks_raises():
    with pytest.raises(sle.UnsupportedHost, match="which modules of a Embedding"):
        recorded_and_replayed(nn.Embedding(len(tiny.WORDS), 8))


def test_another_computation_than_the_recorded_one_raises():
    host = host_for(linear_models.linear_model("gpt2"))
    batch = as_batch(tiny.tokens(1, 6))
    freezing = Freezing(host, BOTH)
    with torch.no_grad(), freezing.recording():
        host.logits(batch)
    with torch.no_grad(), freezing.replaying():
        host.logits(batch)
        with pytest.raises(sle.UnsupportedHost, match="a norm once more often"):
            host.logits(batch)
