"""In an environment with SAELens 6 and TransformerLens 3.9: they read our folders, and our splice runs on their models."""

import pytest
import sae_lens
import tiny
import torch
import transformer_lens

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


def test_this_is_the_other_environment():
    assert sae_lens.__version__.startswith("6.")
    assert not hasattr(transformer_lens, "__version__") or not transformer_lens.__version__.startswith("4.")


@pytest.fixture(params=["plain", "with constants", "no pre-bias"])
def ours(request):
    sae = tiny.sae(levels=tuple(range(1, 9)), apply_b_dec_to_input=request.param != "no pre-bias")
    if request.param == "with constants":
        sae.activation_mean, sae.activation_scale = 3 * torch.randn(32), torch.tensor(0.3)
    return sae


def test_saelens_loads_our_folder_and_reconstructs_the_same(ours, tmp_path):
    theirs = sae_lens.SAE.load_from_disk(ours.save_pretrained(tmp_path))
    assert type(theirs).__name__ == "TopKSAE"
    x = torch.randn(4, 7, 32)
    with torch.no_grad():
        assert (theirs(x) - ours(x)).abs().max() <= 1e-5
        scale = ours.activation_scale
        torch.testing.assert_close(theirs.encode(x), ours.encode(x).dense() / scale, rtol=1e-4, atol=1e-5)
    assert theirs.cfg.metadata.hook_name == SITE
    assert theirs.cfg.metadata.sae_lens_ext["levels"] == list(range(1, 9))


def test_we_load_what_saelens_saved(tmp_path):
    config = sae_lens.TopKSAEConfig(d_in=32, d_sae=48, k=8, rescale_acts_by_decoder_norm=True)
    config.metadata.hook_name = SITE
    theirs = sae_lens.TopKSAE(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    theirs.save_model(tmp_path)
    ours = sle.SAE.from_pretrained(tmp_path)
    assert (ours.config.k, ours.config.hook_name, ours.config.levels) == (8, SITE, (8,))
    x = torch.randn(5, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def hooked_transformer():
    config = transformer_lens.HookedTransformerConfig(
        n_layers=3, d_model=32, n_ctx=32, d_head=8, n_heads=4, d_mlp=64, d_vocab=96, act_fn="gelu", seed=0, init_weights=True, device="cpu"
    )
    with pytest.warns(DeprecationWarning, match="HookedTransformer"):
        return transformer_lens.HookedTransformer(config)


@pytest.fixture(params=["HookedTransformer", "TransformerBridge"])
def model(request):
    return request.getfixturevalue("hooked_transformer") if request.param == "HookedTransformer" else request.getfixturevalue("gpt2")


def test_a_splice_on_transformerlens_3_is_exact_and_leaves_nothing(model):
    sae, tokens = tiny.sae(), tiny.tokens()
    bare = model(tokens)
    by_hand = {k: model.run_with_hooks(tokens, fwd_hooks=[(SITE, lambda x, hook, k=k: sae(x, k))]) for k in (2, 8)}
    with sle.splice(model, sae, k=8) as spliced:
        assert torch.equal(model(tokens), by_hand[8])
        spliced.k = 2
        assert torch.equal(model(tokens), by_hand[2])
        model.reset_hooks()
        assert torch.equal(model(tokens), by_hand[2])
        _, cache = model.run_with_cache(tokens, names_filter=SITE)
        assert spliced.codes[SITE].k == 2
    assert torch.equal(model(tokens), bare)
    assert not any(len(getattr(module, "fwd_hooks", ())) for module in model.modules())
    torch.testing.assert_close(cache[SITE], sae(model.run_with_cache(tokens, names_filter=SITE)[1][SITE], 2))


def test_a_sweep_on_transformerlens_3_agrees_with_whole_runs(model, monkeypatch):
    from sae_lens_ext.interventions.sweep import _Runs

    sae, tokens = tiny.sae(), tiny.tokens(rows=3)
    short = sle.sweep_k(model, tokens, sae, progress=False)
    monkeypatch.setattr(_Runs, "_skipping_is_exact", lambda self: False)
    whole = sle.sweep_k(model, tokens, sae, progress=False)
    torch.testing.assert_close(torch.tensor(short.to_numpy()), torch.tensor(whole.to_numpy()), rtol=1e-4, atol=1e-5)
