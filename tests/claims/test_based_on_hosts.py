"""Splices, sweeps and edits of Based and ReBased are the same on every host.

It holds in TransformerLens 4 and, by ``make test-saelens``, in 3.9.
"""

import copy

import nnsight
import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.based import boot

LINEAR = 1
BATCH, POS, HEADS, D_MODEL, D_HEAD, FEATURES = 2, 11, 3, 24, 8, 10
TOKENS = tiny.tokens(BATCH, POS)


@pytest.fixture
def model():
    model = tiny.based()
    # A trained model has biases that are not zero.
    torch.nn.init.normal_(model.model.layers[0].mixer.out_proj.bias)
    return model


def random_sae(dtype=torch.float32):
    return sle.SAE(sle.SAEConfig(d_model=D_MODEL, d_sae=48, k=8), dtype=dtype)


@pytest.mark.parametrize(
    "site",
    [
        "blocks.1.hook_resid_post",
        "blocks.0.hook_resid_mid",
        "blocks.1.hook_attn_out",
        "blocks.0.hook_mlp_out",
        "blocks.1.attn.hook_z",
    ],
)
def test_a_splice_and_a_sweep_are_the_same_on_every_host(model, site):
    sae = random_sae(torch.float64)
    steer = sle.Steer(3, by=2.0)
    hosts = {
        "torch": copy.deepcopy(model),
        "lens": boot(copy.deepcopy(model)),
        "nnsight": nnsight.NNsight(copy.deepcopy(model)),
    }
    logits = {}
    tables = {}
    for name, host in hosts.items():
        splice = sle.splice(host, {site: sae}, k=4, positions="all", edits=[steer])
        with torch.no_grad(), splice:
            logits[name] = tiny.logits(host, TOKENS)
        tables[name] = sle.sweep_k(host, TOKENS, {site: sae}, ks=[1, 8], progress=False)

    for name in ("lens", "nnsight"):
        torch.testing.assert_close(logits[name], logits["torch"])
        torch.testing.assert_close(
            torch.tensor(tables[name].values),
            torch.tensor(tables["torch"].values),
            equal_nan=True,
        )
    assert (logits["torch"] - model(TOKENS).logits).abs().max() > 1e-3


def test_rejects_a_splice_at_the_mlps_copy_of_the_stream(model):
    bridge = boot(model)
    with (
        pytest.raises(sle.UnknownSite, match="it is only the MLP's copy"),
        sle.splice(bridge, {"blocks.1.ln2.hook_in": random_sae()}),
    ):
        pass


def test_rejects_a_splice_at_the_heads_of_a_convolution(model):
    message = "the ShortConvolution of block 0 has no heads"
    with (
        pytest.raises(sle.UnknownSite, match=message),
        sle.splice(model, {"blocks.0.attn.hook_z": random_sae()}),
    ):
        pass


def test_nnsight_reads_and_edits_the_chosen_form(model):
    plain = copy.deepcopy(model)
    model.set_attention_form("dense")
    traced = nnsight.NNsight(model)
    with traced.trace(TOKENS):
        pattern = traced.model.layers[LINEAR].mixer.hook_pattern.output.save()
        traced.model.layers[LINEAR].mixer.hook_pattern.output = pattern * 2
        doubled = traced.output.logits.save()
    torch.testing.assert_close(
        pattern.sum(-1), torch.ones(BATCH, HEADS, POS, dtype=torch.float64)
    )
    plain.model.layers[LINEAR].mixer.hook_pattern.register_forward_hook(
        lambda _, __, output: output * 2
    )
    torch.testing.assert_close(doubled, plain(TOKENS).logits)

    model.set_attention_form("recurrent")
    with traced.trace(TOKENS):
        state = traced.model.layers[LINEAR].mixer.hook_state.output.save()
    assert state.shape == (BATCH, POS, HEADS, FEATURES, D_HEAD)
