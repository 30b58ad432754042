"""Runs that stop early, or unembed few positions, give what whole runs give."""

import pytest
import tiny
import torch
from torch import nn

from sae_lens_ext.errors import ShapeMismatch
from sae_lens_ext.hosts import (
    capture,
    has_hooks,
    host_for,
    next_token_logits,
    unembedding_input,
)


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.hook_resid_pre",
        "blocks.1.hook_attn_out",
        "blocks.1.hook_mlp_out",
        "blocks.2.hook_resid_post",
    ],
)
def test_capture_sees_the_values_of_a_cache_and_stops(model, name):
    host = host_for(model)
    tokens = tiny.tokens()
    later = []
    handle = (
        host.blocks[-1].register_forward_hook(lambda *_: later.append(1))
        if name.startswith(("blocks.0", "blocks.1"))
        else None
    )
    activations = capture(host, tokens, [host.site(name)])
    assert not later, "the run should have ended at the site"
    if handle:
        handle.remove()

    _, cache = model.run_with_cache(tokens, names_filter=name)
    assert torch.equal(activations[host.site(name)], cache[name])


def test_capture_returns_sites_in_the_order_of_the_run(gemma2):
    host = host_for(gemma2)
    names = [
        "blocks.2.hook_resid_pre",
        "blocks.1.hook_mlp_out",
        "blocks.1.hook_attn_out",
    ]
    activations = capture(host, tiny.tokens(), [host.site(name) for name in names])
    assert [site.name for site in activations] == names[::-1]


def test_logits_at_a_few_positions_are_those_of_a_whole_run(model):
    host = host_for(model)
    tokens = tiny.tokens()
    positions = torch.tensor([1, 4, 9])
    torch.testing.assert_close(
        next_token_logits(host, tokens, positions), model(tokens)[:, positions]
    )
    assert model(tokens).shape[1] == 10, "the narrowing should end with the call"


class _PositionsFirst(nn.Module):
    """Its stream is [pos, batch, d]."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(97, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8)])

    def forward(self, tokens):
        return self.layers[0](self.embedding(tokens.T)).transpose(0, 1)


def test_rejects_an_activation_of_other_axes_than_the_tokens():
    host = host_for(_PositionsFirst())
    message = r"hook_resid_post is \[6, 2, 8\], and the model ran on 2 rows of 6 tokens"
    with pytest.raises(ShapeMismatch, match=message):
        capture(
            host, torch.arange(12).view(2, 6), [host.site("blocks.0.hook_resid_post")]
        )


def test_a_hook_on_the_logits_sees_all_positions():
    model = tiny.hosted("torch")
    tokens = tiny.tokens()
    positions = torch.tensor([1, 4])
    logits = model(tokens).logits[:, positions]
    shapes = []
    model.lm_head.register_forward_hook(lambda *args: shapes.append(args[2].shape))
    torch.testing.assert_close(
        next_token_logits(host_for(model), tokens, positions), logits
    )
    assert shapes == [(2, 10, 96)]


class _FlatLogits(nn.Module):
    """Unembeds all rows and positions as one list of tokens."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(97, 8)
        self.lm_head = nn.Linear(8, 97)

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, tokens):
        hidden = self.embedding(tokens).flatten(0, 1)
        return self.lm_head(hidden).view(*tokens.shape, 97)


def test_an_unembedding_that_is_called_with_a_list_of_tokens_gets_them_all():
    model = _FlatLogits()
    tokens = torch.arange(12).view(2, 6)
    positions = torch.tensor([0, 5])
    torch.testing.assert_close(
        next_token_logits(host_for(model), tokens, positions),
        model(tokens)[:, positions],
    )


def test_a_run_can_end_at_the_unembedding(model):
    host = host_for(model)
    hidden = unembedding_input(host, tiny.tokens())
    _, cache = model.run_with_cache(tiny.tokens(), names_filter="unembed.hook_in")
    assert hidden is not None
    assert torch.equal(hidden, cache["unembed.hook_in"])


def test_only_hooks_of_users_count_as_hooks(model):
    assert not has_hooks(model)
    model.blocks[0].hook_out.add_hook(lambda x, hook: None)
    assert has_hooks(model)
    model.reset_hooks()
    assert not has_hooks(model)

    handle = model.blocks[0].register_forward_pre_hook(lambda *_: None)
    assert has_hooks(model)
    handle.remove()
