import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.hosts import capture, host_for, next_token_logits, resume


def test_both_spellings_are_one_place(model):
    host = host_for(model)
    assert (
        host.site("blocks.1.hook_resid_post").key == host.site("blocks.1.hook_out").key
    )
    assert host.site("blocks.1.hook_resid_post").blocks_before == 2
    assert host.site("blocks.1.hook_resid_pre").blocks_before == 1
    assert host.site("blocks.1.hook_mlp_out").blocks_before == 1
    assert host.site("blocks.1.hook_resid_pre").is_residual
    assert not host.site("blocks.1.hook_mlp_out").is_residual


def test_an_unknown_site_names_the_closest(model):
    with pytest.raises(sle.UnknownSite) as caught:
        host_for(model).site("blocks.1.resid_post")
    assert str(caught.value).startswith(
        "no site 'blocks.1.resid_post' in this model; the closest: blocks.1.hook_resid_post"
    )
    with pytest.raises(KeyError):
        host_for(model).site("blocks.99.hook_resid_post")


def test_a_point_whose_edits_go_nowhere_is_refused(model):
    for name in ("blocks.1.hook_resid_mid", "blocks.1.ln2.hook_in"):
        with pytest.raises(
            sle.UnknownSite,
            match=f"{name} cannot be edited on a TransformerBridge.*use hook_attn_out",
        ):
            host_for(model).site(name)


def test_a_point_that_is_switched_off_is_refused_with_the_switch(model):
    host = host_for(model)
    with pytest.raises(
        sle.UnknownSite,
        match="does not fire in this model as it is set up: .*use_attn_result",
    ):
        host.attach(host.site("blocks.1.attn.hook_result"), lambda x: x)


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.hook_resid_pre",
        "blocks.1.hook_attn_out",
        "blocks.1.hook_mlp_out",
        "blocks.2.hook_resid_post",
    ],
)
def test_capture_sees_what_a_cache_sees_and_stops(model, name):
    host, tokens = host_for(model), tiny.tokens()
    later = []
    handle = (
        host.blocks[-1].register_forward_hook(lambda *_: later.append(1))
        if name.startswith(("blocks.0", "blocks.1"))
        else None
    )
    found = capture(host, tokens, [host.site(name)])
    assert not later, "the run should have ended at the site"
    if handle:
        handle.remove()
    _, cache = model.run_with_cache(tokens, names_filter=name)
    assert torch.equal(found[host.site(name)], cache[name])


def test_capture_tells_the_order_of_the_run(gemma2):
    host = host_for(gemma2)
    names = [
        "blocks.2.hook_resid_pre",
        "blocks.1.hook_mlp_out",
        "blocks.1.hook_attn_out",
    ]
    assert [
        site.name
        for site in capture(host, tiny.tokens(), [host.site(name) for name in names])
    ] == names[::-1]


@pytest.mark.parametrize("n_blocks", [0, 1, 2, 3])
def test_resume_gives_the_same_logits_without_running_the_blocks(gemma2, n_blocks):
    host, tokens = host_for(gemma2), tiny.tokens()
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
    host, tokens = host_for(gemma2), tiny.tokens()
    before = [dict(block.__dict__) for block in gemma2.blocks]
    with pytest.raises(ZeroDivisionError), resume(host, 2, torch.zeros(2, 10, 32)):
        _ = 1 / 0
    assert [dict(block.__dict__) for block in gemma2.blocks] == before
    assert torch.isfinite(gemma2(tokens)).all()


def test_logits_at_some_positions_are_those_positions(model):
    host, tokens = host_for(model), tiny.tokens()
    positions = torch.tensor([1, 4, 9])
    torch.testing.assert_close(
        next_token_logits(host, tokens, positions), model(tokens)[:, positions]
    )
    assert model(tokens).shape[1] == 10, "the narrowing should end with the call"


def test_special_tokens_come_from_the_tokenizer(model):
    assert host_for(model).special_token_ids() == {0, 1, 2, 3}


@pytest.mark.parametrize("thing", ["gpt2", None])
def test_what_is_no_model_of_a_known_library_is_refused(thing):
    with pytest.raises(
        sle.UnsupportedHost,
        match="cannot read activations of a .*give a TransformerLens model, an nnsight model, or a",
    ):
        host_for(thing)
