"""Sites of a TransformerLens model: their names, and the ones that are rejected."""

import pytest
import tiny
import torch
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

import sae_lens_ext as sle
from sae_lens_ext.hosts import capture, host_for


def test_both_spellings_name_one_place(model):
    host = host_for(model)
    assert (
        host.site("blocks.1.hook_resid_post").key == host.site("blocks.1.hook_out").key
    )
    assert host.site("blocks.1.hook_resid_post").blocks_before == 2
    assert host.site("blocks.1.hook_resid_pre").blocks_before == 1
    assert host.site("blocks.1.hook_mlp_out").blocks_before == 1
    assert host.site("blocks.1.hook_resid_pre").is_residual
    assert not host.site("blocks.1.hook_mlp_out").is_residual


def test_unknown_site_names_the_closest(model):
    with pytest.raises(sle.UnknownSite) as caught:
        host_for(model).site("blocks.1.resid_post")
    assert str(caught.value).startswith(
        "no site 'blocks.1.resid_post' in this model; the closest: "
        "blocks.1.hook_resid_post"
    )
    with pytest.raises(KeyError):
        host_for(model).site("blocks.99.hook_resid_post")


def test_rejects_a_point_whose_edits_go_nowhere(model):
    for name in ("blocks.1.hook_resid_mid", "blocks.1.ln2.hook_in"):
        with pytest.raises(
            sle.UnknownSite,
            match=f"{name} cannot be edited on a TransformerBridge.*use hook_attn_out",
        ):
            host_for(model).site(name)


def test_a_point_that_is_switched_off_is_rejected_with_the_switch(model):
    host = host_for(model)
    with pytest.raises(
        sle.UnknownSite,
        match="does not fire in this model as it is set up: .*use_attn_result",
    ):
        host.attach(host.site("blocks.1.attn.hook_result"), lambda x: x)


def test_a_text_longer_than_the_context_is_not_cut_silently(model, monkeypatch):
    monkeypatch.setattr(model.cfg, "n_ctx", 4)
    batch = sle.token_batch(model, "w1 w2 w3 w4 w5 w6")
    assert batch.shape == (1, 7)


def test_special_tokens_are_those_that_the_wrapped_model_names(model):
    assert host_for(model).special_token_ids() == {0, 1, 2}


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_of_texts_is_left_alone_on_either_side(model, side):
    sae = tiny.sae()
    texts = ["w1 w2 w3 w4", "w5"]
    with torch.no_grad(), sle.splice(model, sae, positions="all") as spliced:
        model(texts, padding_side=side)
        codes = spliced.codes["blocks.1.hook_resid_post"]
        active = codes.l0() > 0
        assert active[0].all()
        expected = [[False] * 3 + [True] * 2, [True] * 2 + [False] * 3]
        assert active[1].tolist() == expected[side == "right"]
        model(texts[1])
        alone = spliced.codes["blocks.1.hook_resid_post"]
    torch.testing.assert_close(codes.dense()[1][active[1]], alone.dense()[0])


@pytest.mark.parametrize("name", ["gemma2", "gpt2"])
def test_what_the_mlp_reads_is_the_same_on_a_bridge_and_on_a_module(name):
    activations = []
    for host_name in ("lens", "torch"):
        host = host_for(tiny.hosted(host_name, name, attention="eager"))
        for spelling in ("hook_mlp_in", "mlp.hook_in"):
            site = host.site(f"blocks.1.{spelling}")
            assert (site.point, site.block) == ("mlp_in", 1)
            with torch.no_grad():
                activations.append(capture(host, tiny.tokens(), [site])[site])
    for activation in activations[1:]:
        torch.testing.assert_close(activation, activations[0])


class _WithPointBeforeTheNorm(HookedRootModule):
    """Has the point of TransformerLens' HookedTransformer."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Module()])
        self.blocks[0].hook_mlp_in = HookPoint()
        self.setup()


def test_rejects_a_point_of_the_same_name_before_the_norm():
    host = host_for(_WithPointBeforeTheNorm())
    message = (
        "is the stream before the MLP's norm in this model.*blocks.0.ln2.hook_norm"
    )
    with pytest.raises(sle.UnknownSite, match=message):
        host.site("blocks.0.hook_mlp_in")
    with pytest.raises(sle.UnknownSite, match="no site 'blocks.0.mlp.hook_in'"):
        host.site("blocks.0.mlp.hook_in")
