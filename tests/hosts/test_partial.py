"""Partial runs give what whole runs give, and do less work."""

import pytest
import tiny
import torch

from sae_lens_ext.hosts import capture, host_for, next_token_logits, resume


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


@pytest.mark.parametrize("n_blocks", [0, 1, 2, 3])
def test_resume_gives_the_same_logits_without_running_the_blocks(gemma2, n_blocks):
    host = host_for(gemma2)
    tokens = tiny.tokens()
    logits = gemma2(tokens)
    site = host.site(f"blocks.{n_blocks}.hook_resid_pre")
    residual = capture(host, tokens, [site])[site]

    ran = []
    handles = [
        block.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(gemma2.blocks)
    ]
    with resume(host, n_blocks, residual):
        assert torch.equal(gemma2(tokens), logits)
    assert ran == list(range(n_blocks, 4))

    for handle in handles:
        handle.remove()
    assert torch.equal(gemma2(tokens), logits)


def test_resume_restores_the_blocks_when_the_body_raises(gemma2):
    host = host_for(gemma2)
    tokens = tiny.tokens()
    before = [dict(block.__dict__) for block in gemma2.blocks]
    with pytest.raises(ZeroDivisionError), resume(host, 2, torch.zeros(2, 10, 32)):
        _ = 1 / 0
    assert [dict(block.__dict__) for block in gemma2.blocks] == before
    assert torch.isfinite(gemma2(tokens)).all()


def test_logits_at_a_few_positions_are_those_of_a_whole_run(model):
    host = host_for(model)
    tokens = tiny.tokens()
    positions = torch.tensor([1, 4, 9])
    torch.testing.assert_close(
        next_token_logits(host, tokens, positions), model(tokens)[:, positions]
    )
    assert model(tokens).shape[1] == 10, "the narrowing should end with the call"
