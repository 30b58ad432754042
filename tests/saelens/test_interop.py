"""SAELens 6 reads our folders, and our splice runs on TransformerLens 3.9.

In an environment of its own, with these two versions.
"""

import pytest
import sae_lens
import tiny
import torch
import transformer_lens

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"


def test_the_environment_has_the_other_versions():
    assert sae_lens.__version__.startswith("6.")
    version = getattr(transformer_lens, "__version__", "")
    assert not version.startswith("4.")


@pytest.fixture(params=["plain", "with constants", "no pre-bias"])
def ours(request):
    sae = tiny.sae(
        levels=tuple(range(1, 9)), apply_b_dec_to_input=request.param != "no pre-bias"
    )
    if request.param == "with constants":
        sae.activation_mean = 3 * torch.randn(32)
        sae.activation_scale = torch.tensor(0.3)
    return sae


def test_saelens_loads_our_folder_and_reconstructs_the_same(ours, tmp_path):
    theirs = sae_lens.SAE.load_from_disk(ours.save_pretrained(tmp_path))
    assert type(theirs).__name__ == "TopKSAE"
    x = torch.randn(4, 7, 32)
    with torch.no_grad():
        assert (theirs(x) - ours(x)).abs().max() <= 1e-5
        scale = ours.activation_scale
        torch.testing.assert_close(
            theirs.encode(x), ours.encode(x).dense() / scale, rtol=1e-4, atol=1e-5
        )
    assert theirs.cfg.metadata.hook_name == SITE
    assert theirs.cfg.metadata.sae_lens_ext["levels"] == list(range(1, 9))


def test_saelens_loads_matrices_in_bfloat16_beside_biases_in_float32(ours, tmp_path):
    folder = ours.save_pretrained(tmp_path, dtype="bfloat16")
    theirs = sae_lens.SAE.load_from_disk(folder)
    rounded = sle.SAE.from_pretrained(folder)
    assert theirs.W_enc.dtype == theirs.b_enc.dtype == torch.float32
    x = torch.randn(4, 7, 32)
    with torch.no_grad():
        assert (theirs(x) - rounded(x)).abs().max() <= 1e-5


def test_loads_a_folder_that_saelens_saved(tmp_path):
    config = sae_lens.TopKSAEConfig(
        d_in=32, d_sae=48, k=8, rescale_acts_by_decoder_norm=True
    )
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
        n_layers=3,
        d_model=32,
        n_ctx=32,
        d_head=8,
        n_heads=4,
        d_mlp=64,
        d_vocab=96,
        act_fn="gelu",
        seed=0,
        init_weights=True,
        device="cpu",
    )
    with pytest.warns(DeprecationWarning, match="HookedTransformer"):
        return transformer_lens.HookedTransformer(config)


@pytest.fixture(params=["HookedTransformer", "TransformerBridge"])
def model(request):
    is_bridge = request.param == "TransformerBridge"
    return request.getfixturevalue("gpt2" if is_bridge else "hooked_transformer")


def test_a_splice_on_transformerlens_3_is_exact_and_leaves_nothing(model):
    sae = tiny.sae()
    tokens = tiny.tokens()
    bare = model(tokens)
    by_hand = {
        k: model.run_with_hooks(
            tokens, fwd_hooks=[(SITE, lambda x, hook, k=k: sae(x, k))]
        )
        for k in (2, 8)
    }
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
    torch.testing.assert_close(
        cache[SITE], sae(model.run_with_cache(tokens, names_filter=SITE)[1][SITE], 2)
    )


def test_a_sweep_on_transformerlens_3_agrees_with_whole_runs(model, monkeypatch):
    from sae_lens_ext.interventions.sweep import SweptModel

    sae = tiny.sae()
    tokens = tiny.tokens(rows=3)
    short = sle.sweep_k(model, tokens, sae, progress=False)
    monkeypatch.setattr(SweptModel, "_is_exact", lambda self, *_: False)
    whole = sle.sweep_k(model, tokens, sae, progress=False)
    torch.testing.assert_close(
        torch.tensor(short.to_numpy()),
        torch.tensor(whole.to_numpy()),
        rtol=1e-4,
        atol=1e-5,
    )


POINTS = [
    "hook_sae_input",
    "hook_sae_acts_post",
    "hook_sae_recons",
    "hook_sae_error",
    "hook_sae_output",
]


def test_error_terms_edits_and_points_on_transformerlens_3(model):
    sae = tiny.sae()
    tokens = tiny.tokens()
    names = set(model.hook_dict)
    with torch.no_grad():
        bare, cache = model.run_with_cache(tokens, names_filter=SITE)
        with sle.splice(model, sae, k=3, error_term=True) as spliced:
            assert torch.equal(model(tokens), bare)
            spliced.edits = [sle.Steer(5, by=2.0)]
            _, inside = model.run_with_cache(
                tokens, names_filter=lambda name: ".hook_sae_" in name or name == SITE
            )
            assert {f"{SITE}.{point}" for point in POINTS} <= set(inside)
    torch.testing.assert_close(
        inside[SITE], cache[SITE] + 2 * sae.W_dec[5], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(inside[f"{SITE}.hook_sae_input"], cache[SITE])
    assert set(model.hook_dict) == names
    assert torch.equal(model(tokens), bare)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_on_transformerlens_3_steers_the_new_tokens(model, use_cache):
    sae = tiny.sae()
    tokens = tiny.tokens(rows=1)
    edits = [sle.Steer(range(8), by=4.0, positions=slice(10, None))]
    options = {
        "max_new_tokens": 5,
        "do_sample": False,
        "stop_at_eos": False,
        "use_past_kv_cache": use_cache,
        "verbose": False,
    }
    with torch.no_grad(), sle.splice(model, sae, error_term=True, edits=edits):
        generated = model.generate(tokens, **options).clone()
        whole = model(generated)
    with torch.no_grad():
        assert not torch.equal(model.generate(tokens, **options), generated)
    # A HookedTransformer without a tokenizer generates other tokens with its cache than
    # without, spliced or not.
    if not (use_cache and type(model).__name__ == "HookedTransformer"):
        assert whole[0, 9:-1].argmax(-1).tolist() == generated[0, 10:].tolist()


def test_the_middle_of_a_block_is_a_site_on_a_hooked_transformer(hooked_transformer):
    """There the stream itself passes through the hook point.

    So an edit does what its name says.
    """
    model = hooked_transformer
    site = "blocks.1.hook_resid_mid"
    mlp = "blocks.1.hook_mlp_out"
    tokens = tiny.tokens()
    direction = torch.randn(32)
    with torch.no_grad():
        _, bare = model.run_with_cache(tokens, names_filter=[SITE, mlp])
        edits = [sle.AddDirection(direction)]
        with sle.splice(model, {site: None}, edits=edits, positions="all"):
            _, steered = model.run_with_cache(tokens, names_filter=[SITE, mlp])
    moved = (steered[SITE] - steered[mlp]) - (bare[SITE] - bare[mlp])
    torch.testing.assert_close(moved, direction.expand_as(moved), rtol=1e-4, atol=1e-4)


def test_any_root_module_with_hook_points_can_be_spliced():
    class Tiny(transformer_lens.HookedRootModule):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(96, 32)
            self.hook_middle = transformer_lens.hook_points.HookPoint()
            self.setup()

        def forward(self, tokens):
            return self.hook_middle(self.embed(tokens))

    model = Tiny()
    sae = tiny.sae()
    tokens = tiny.tokens()
    with torch.no_grad():
        bare = model(tokens)
        with sle.splice(model, {"hook_middle": sae}, k=3):
            torch.testing.assert_close(model(tokens), sae(bare, 3))
            with pytest.raises(
                sle.UnsupportedHost,
                match="cannot tell which module of a Tiny makes the logits",
            ):
                sle.sweep_k(model, tokens, {"hook_middle": sae}, progress=False)
        assert torch.equal(model(tokens), bare)


def test_the_bridge_of_saelens_is_spliced_by_either_spelling():
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    model = tiny.bridge("gemma2")
    model.__class__ = SAETransformerBridge
    model._acts_to_saes = {}
    model._transcoder_output_hooks = {}
    sae = tiny.sae()
    tokens = tiny.tokens()
    with torch.no_grad():
        with sle.splice(model, sae, k=3):
            logits = model(tokens)
        plain = tiny.hf_model("gemma2")
        with sle.splice(plain, sae, k=3):
            torch.testing.assert_close(logits, plain(tokens).logits, rtol=0, atol=1e-5)
