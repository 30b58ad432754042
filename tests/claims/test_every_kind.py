"""An SAE of any kind, and a transcoder, has the dial inside a model, on every host.

What a splice does is compared with plain torch hooks on the model's own modules.
"""

import pytest
import tiny
import torch
from torch.nn import functional as F

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"
INPUT = "blocks.1.hook_mlp_in"
OUTPUT = "blocks.1.hook_mlp_out"
KINDS = ["jumprelu", "batchtopk", "relu"]


@pytest.fixture(scope="module")
def models():
    return {
        host: tiny.hosted(host, "gpt2", torch.float64, attention="eager")
        for host in tiny.HOSTS
    }


@pytest.fixture(scope="module")
def plain():
    """The model to put hooks into."""
    return tiny.hf_model("gpt2", torch.float64, attention="eager")


@pytest.fixture
def sae():
    return tiny.sae_of_kind("jumprelu", hook_name=SITE)


@pytest.fixture
def transcoder():
    return tiny.sae_of_kind(
        "jumprelu",
        d_out=32,
        skip_connection=True,
        hook_name=INPUT,
        hook_name_out=OUTPUT,
    )


def _replaced(plain, replace):
    """Logits of the plain model with the stream after block 1 replaced."""

    def hook(module, arguments, output):
        if isinstance(output, tuple):
            return (replace(output[0]), *output[1:])
        return replace(output)

    handle = plain.transformer.h[1].register_forward_hook(hook)
    try:
        return plain(tiny.tokens()).logits
    finally:
        handle.remove()


def _mlp_replaced(plain, replace):
    """Logits of the plain model with the MLP of block 1 replaced, given its input."""
    handle = plain.transformer.h[1].mlp.register_forward_hook(
        lambda module, arguments, output: replace(arguments[0], output)
    )
    try:
        return plain(tiny.tokens()).logits
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", tiny.HOSTS)
@torch.no_grad()
def test_the_dial_turns_from_every_active_feature_to_one(models, plain, host, kind):
    sae = tiny.sae_of_kind(kind, hook_name=SITE)
    model = models[host]
    with sle.splice(model, sae) as spliced:
        assert spliced.k is None
        for k in (None, 5, 1):
            spliced.k = k
            expected = _replaced(plain, lambda x, k=k: sae(x, k))
            torch.testing.assert_close(tiny.logits(model, tiny.tokens()), expected)
            assert spliced.codes[SITE].l0().max() <= (k or 48)


@torch.no_grad()
def test_a_rule_chooses_among_all_active_features(models, plain, sae):
    rule = sle.until_fvu(0.3)

    def chosen(x):
        code = sae.encode(x)
        errors = torch.stack(
            [(x - sae.b_dec).square().sum(-1)]
            + [(x - sae(x, k)).square().sum(-1) for k in range(1, code.k + 1)],
            -1,
        )
        is_enough = errors[..., 1:] <= 0.3 * errors[..., :1]
        k = torch.where(is_enough.any(-1), is_enough.byte().argmax(-1) + 1, code.k)
        outputs = torch.stack([sae(x, k) for k in range(1, code.k + 1)], -2)
        index = (k - 1)[..., None, None].expand(*x.shape[:-1], 1, x.shape[-1])
        return outputs.gather(-2, index).squeeze(-2)

    with sle.splice(models["torch"], sae, k=rule):
        logits = tiny.logits(models["torch"], tiny.tokens())
    torch.testing.assert_close(logits, _replaced(plain, chosen))


@torch.no_grad()
def test_k_per_position_caps_an_uncapped_code(models, plain, sae):
    ks = torch.arange(1, 11)

    def capped(x):
        rows = [sae(x[:, [pos]], int(k)) for pos, k in enumerate(ks)]
        return torch.cat(rows, 1)

    with sle.splice(models["lens"], sae, k=ks):
        logits = tiny.logits(models["lens"], tiny.tokens())
    torch.testing.assert_close(logits, _replaced(plain, capped))


@torch.no_grad()
def test_the_error_term_is_exact_at_every_k(models, plain, sae):
    model = models["torch"]
    bare = tiny.logits(model, tiny.tokens())
    with sle.splice(model, sae, error_term=True) as spliced:
        for k in (None, 3):
            spliced.k = k
            assert torch.equal(tiny.logits(model, tiny.tokens()), bare)

    # The reference is what the SAE itself says is active.
    with sle.splice(model, sae, k=3, error_term="reference"):
        logits = tiny.logits(model, tiny.tokens())
    expected = _replaced(plain, lambda x: x + sae(x, 3) - sae(x))
    torch.testing.assert_close(logits, expected)


@torch.no_grad()
def test_edits_act_on_features_of_an_uncapped_code(models, plain, sae):
    def ablated(x):
        acts = sae.encode(x).dense()
        return x - acts[..., :24] @ sae.W_dec[:24]

    edits = [sle.Ablate(range(24))]
    with sle.splice(models["lens"], sae, error_term=True, edits=edits):
        logits = tiny.logits(models["lens"], tiny.tokens())
    torch.testing.assert_close(logits, _replaced(plain, ablated))


@torch.no_grad()
@pytest.mark.parametrize("host", tiny.HOSTS)
def test_a_sweep_reaches_from_one_feature_to_all(models, plain, sae, host):
    frame = sle.sweep_k(
        models[host], tiny.tokens(), sae, ks=[1, 4, None], progress=False
    )
    assert frame["k"].tolist()[:2] == [1, 4]
    assert frame["k"].isna().tolist() == [False, False, True]

    tokens = tiny.tokens()
    for row, k in enumerate([1, 4, None]):
        logits = _replaced(plain, lambda x, k=k: sae(x, k))[:, :-1]
        # The targets are the next tokens, none of which is special here.
        ce = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        assert frame["ce"][row] == pytest.approx(ce.item(), abs=1e-6)


def test_a_sweep_without_ks_asks_for_them(models, sae):
    with pytest.raises(
        sle.InvalidK, match="an SAE of kind jumprelu was not trained at one"
    ):
        sle.sweep_k(models["torch"], tiny.tokens(), sae, progress=False)


@torch.no_grad()
def test_a_run_records_every_active_feature(models, sae):
    run = sle.Run.capture(models["torch"], tiny.tokens(), sae)
    capped = sle.Run.capture(models["torch"], tiny.tokens(), sae, k=3)
    assert run.codes[SITE].k > 3
    torch.testing.assert_close(
        run.codes[SITE].prefix(3).dense(), capped.codes[SITE].dense()
    )


@torch.no_grad()
@pytest.mark.parametrize("token_norm", ["layer_norm", "unit_norm"])
def test_a_token_norm_is_undone_in_the_model(models, plain, token_norm):
    sae = tiny.sae_of_kind("topk", hook_name=SITE, token_norm=token_norm)
    with sle.splice(models["torch"], sae, k=3):
        logits = tiny.logits(models["torch"], tiny.tokens())
    torch.testing.assert_close(logits, _replaced(plain, lambda x: sae(x, 3)))

    edits = [sle.Steer(5, by=2.0)]
    with sle.splice(models["torch"], sae, error_term=True, edits=edits):
        steered = tiny.logits(models["torch"], tiny.tokens())

    def by_hand(x):
        scale = sae.encode(x).statistics.scale
        return x + 2.0 * sae.W_dec[5] * scale[..., None]

    torch.testing.assert_close(steered, _replaced(plain, by_hand))


@torch.no_grad()
@pytest.mark.parametrize("host", tiny.HOSTS)
@pytest.mark.parametrize("by_name", [False, True], ids=["by its config", "by name"])
def test_a_transcoder_reads_one_site_and_writes_another(
    models, plain, transcoder, host, by_name
):
    model = models[host]
    saes = transcoder
    if by_name:
        nameless = transcoder.with_config(hook_name=None, hook_name_out=None)
        saes = {(INPUT, OUTPUT): nameless}
    with sle.splice(model, saes) as spliced:
        for k in (None, 2):
            spliced.k = k
            expected = _mlp_replaced(plain, lambda x, y, k=k: transcoder(x, k))
            torch.testing.assert_close(tiny.logits(model, tiny.tokens()), expected)
    assert spliced.codes[OUTPUT].k == 2
    assert spliced.codes[INPUT, OUTPUT] is spliced.codes[OUTPUT]


@torch.no_grad()
def test_a_transcoder_has_error_term_edits_and_rules(models, plain, transcoder):
    model = models["torch"]
    bare = tiny.logits(model, tiny.tokens())
    with sle.splice(model, transcoder, error_term=True) as spliced:
        assert torch.equal(tiny.logits(model, tiny.tokens()), bare)
        spliced.edits = [sle.Ablate(range(24))]
        ablated = tiny.logits(model, tiny.tokens())

    def without_24(x, y):
        acts = transcoder.encode(x).dense()
        return y - acts[..., :24] @ transcoder.W_dec[:24]

    torch.testing.assert_close(ablated, _mlp_replaced(plain, without_24))

    with sle.splice(model, transcoder, k=sle.until_fvu(0.0)):
        logits = tiny.logits(model, tiny.tokens())
    everything = _mlp_replaced(plain, lambda x, y: transcoder(x))
    torch.testing.assert_close(logits, everything)


@torch.no_grad()
def test_a_transcoder_is_swept(models, plain, transcoder):
    tokens = tiny.tokens()
    frame = sle.sweep_k(
        models["torch"], tokens, transcoder, ks=[2, None], progress=False
    )
    pairs = []
    _mlp_replaced(plain, lambda x, y: pairs.append((x, y)))
    x, y = pairs[0]
    for row, k in enumerate([2, None]):
        logits = _mlp_replaced(plain, lambda x, y, k=k: transcoder(x, k))[:, :-1]
        ce = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        assert frame["ce"][row] == pytest.approx(ce.item(), abs=1e-6)

        # BOS was trained on, by this config, so it counts too.
        error = (y - transcoder(x, k)).square().sum()
        variance = (y - y.flatten(0, 1).mean(0)).square().sum()
        fvu = (error / variance).item()
        assert frame["fvu"][row] == pytest.approx(fvu, rel=1e-6)


@torch.no_grad()
def test_gradients_flow_through_a_transcoder(models, transcoder):
    with torch.enable_grad(), sle.splice(models["torch"], transcoder, k=4):
        tiny.logits(models["torch"], tiny.tokens()).square().sum().backward()
    for name in ("W_enc", "W_dec", "b_dec", "W_skip"):
        assert getattr(transcoder, name).grad.abs().sum() > 0, name


def test_a_run_of_a_transcoder_holds_the_features_of_its_input(models, transcoder):
    run = sle.Run.capture(models["torch"], tiny.tokens(), transcoder, k=4)
    with torch.no_grad(), sle.splice(models["torch"], transcoder, k=4) as spliced:
        tiny.logits(models["torch"], tiny.tokens())
    torch.testing.assert_close(run.codes[OUTPUT].dense(), spliced.codes[OUTPUT].dense())


def test_an_input_inside_a_norm_is_refused_with_the_reason(models, transcoder):
    placed = {("blocks.1.ln2.hook_normalized", OUTPUT): transcoder}
    with pytest.raises(sle.UnknownSite, match=r"ln2\.hook_normalized.*local variable"):
        sle.splice(models["torch"], placed)


def test_rejects_two_names_for_an_autoencoder(models, sae):
    with pytest.raises(sle.InvalidArgument, match="an autoencoder writes where"):
        sle.splice(models["torch"], {(SITE, OUTPUT): sae})


def test_rejects_a_transcoder_that_does_not_say_where_it_reads(models, transcoder):
    nameless = transcoder.with_config(hook_name=None)
    with pytest.raises(sle.UnknownSite, match="this transcoder does not say where"):
        sle.splice(models["torch"], {OUTPUT: nameless})
