"""Attention and norms that are not linear with what is held are found out."""

import linear_models
import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

import sae_lens_ext as sle
from sae_lens_ext.circuits.freezing import Freezing
from sae_lens_ext.hosts import as_batch, host_for

BOTH = ("attention", "norms")


def check(model, kinds=BOTH, tokens=None):
    """Record a run and check what was held."""
    host = host_for(model)
    batch = as_batch(tiny.tokens(2, 7) if tokens is None else tokens)
    freezing = Freezing(host, kinds)
    with torch.no_grad(), freezing.recording(len(batch)):
        host.logits(batch)
    freezing.check_linear(batch)
    return freezing


MODELS = {
    **{name: lambda name=name: tiny.hf_model(name) for name in ("gemma2", "gemma3")},
    "gpt2": lambda: tiny.hf_model("gpt2"),
    "gpt2, bfloat16": lambda: tiny.hf_model("gpt2", torch.bfloat16),
    "gpt2, eager": lambda: tiny.hf_model("gpt2", attention="eager"),
    "llama": lambda: linear_models.linear_model("llama", "sdpa"),
    "based": lambda: tiny.based("based"),
    "rebased": lambda: tiny.based("rebased"),
    "bridge": lambda: tiny.bridge("gemma2"),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_held_makes_known_models_linear(name):
    model = MODELS[name]()
    before = tiny.hooks_of(model)
    freezing = check(model)
    # Attention of every block that has any, and norms.
    n_attention = sum(name.startswith("block ") for name in freezing._linear)
    assert n_attention >= 3
    assert len(freezing._linear) > n_attention
    assert tiny.hooks_of(model) == before


@pytest.mark.parametrize("name", ["gpt2, eager", "llama", "based", "rebased"])
def test_one_row_is_held_in_each_of_the_four(name):
    assert check(MODELS[name](), tokens=tiny.tokens(1, 7))._linear


class Attention(nn.Module):
    def __init__(self, is_gated):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.is_gated = is_gated

    def forward(self, x):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        attended = (F.softmax(q @ k.mT, dim=-1) @ v).squeeze(1)
        return x + (attended * x.sigmoid() if self.is_gated else attended)


class BentNorm(nn.LayerNorm):
    """A norm whose output a tanh bounds."""

    def forward(self, x):
        return super().forward(x).tanh()


class Model(nn.Module):
    def __init__(self, *, is_gated=False, norm=nn.LayerNorm, is_flat=False):
        super().__init__()
        self.embed = nn.Embedding(len(tiny.WORDS), 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(norm(8), Attention(is_gated), nn.Linear(8, 8), nn.GELU())
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(8)
        self.is_flat = is_flat

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        # As OPT does it: all rows and positions on one axis.
        return self.norm(x.flatten(0, 1)).view_as(x) if self.is_flat else self.norm(x)


def test_mlps_do_not_count():
    check(Model())


def test_norms_over_all_rows_at_once_are_held_by_row():
    check(Model(is_flat=True))


def test_rows_of_different_lengths_are_checked(gemma2):
    check(gemma2, tokens=sle.token_batch(gemma2, ["w1", "w2 w3"]))


@pytest.mark.parametrize(
    ("model", "kinds", "message"),
    [
        (Model(is_gated=True), BOTH, "block 0.1, a Attention, bends by"),
        (Model(is_gated=True), ("attention",), "block 0.1, a Attention, bends by"),
        (Model(norm=BentNorm), BOTH, "blocks.0.0, a BentNorm, bends by"),
        (Model(norm=BentNorm), ("norms",), "blocks.0.0, a BentNorm, bends by"),
    ],
)
def test_a_module_that_is_not_linear_raises(model, kinds, message):
    with pytest.raises(sle.UnsupportedHost, match=message):
        check(model, kinds)


def test_effects_raise_where_freezing_is_partial():
    model = Model(is_gated=True)
    sae = tiny.sae(d_model=8, hook_name="blocks.0")
    tokens = tiny.tokens(1, 5)

    def metric(logits):
        return logits[:, -1, 3]

    sle.circuits.effects(model, sae, tokens, metric=metric)
    sle.circuits.effects(model, sae, tokens, metric=metric, freeze="norms")
    with pytest.raises(sle.UnsupportedHost, match="cannot make this model linear"):
        sle.circuits.effects(model, sae, tokens, metric=metric, freeze=BOTH)
