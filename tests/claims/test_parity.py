"""One splice, the same numbers on every host: TransformerLens, nnsight and plain torch, from the same weights."""

import pytest
import tiny
import torch
import transformers
from paths import TESTS

import sae_lens_ext as sle
from sae_lens_ext.hosts import capture, host_for

SITE = "blocks.1.hook_resid_post"
SITES = [
    SITE,
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_attn_out",
    "blocks.1.hook_mlp_out",
    "blocks.1.attn.hook_z",
]


def _run_of(model, tokens, sae):
    return sle.Run.capture(model, tokens, sae, k=8)


EDITS = {
    "none": lambda run: [],
    "ablate": lambda run: [sle.Ablate(range(24))],
    "ablate-to-mean": lambda run: [sle.Ablate(range(24), to="mean")],
    "resample": lambda run: [sle.Ablate(range(24), to=run)],
    "steer": lambda run: [sle.Steer(5, by=4.0)],
    "clamp": lambda run: [sle.Clamp([5, 6], to=[2.0, -1.0])],
    "scale": lambda run: [sle.Scale(range(24), by=0.5)],
    "patch": lambda run: [sle.Patch(range(24), source=run)],
    "add-direction": lambda run: [
        sle.AddDirection(torch.linspace(-1, 1, 32), scale=3.0)
    ],
}


@pytest.fixture(scope="module", params=["gemma2", "gemma3", "gpt2"])
def models(request):
    return {host: tiny.hosted(host, request.param) for host in tiny.HOSTS}


@pytest.mark.parametrize("error_term", [False, True, "reference"])
@pytest.mark.parametrize("edit", EDITS)
def test_logits_agree_for_every_edit(models, edit, error_term):
    tokens, other, sae = tiny.tokens(), tiny.tokens(seed=1), tiny.sae()
    found = {}
    for host, model in models.items():
        edits = EDITS[edit](_run_of(model, other, sae))
        with (
            torch.no_grad(),
            sle.splice(model, sae, k=3, error_term=error_term, edits=edits),
        ):
            found[host] = tiny.logits(model, tokens)
    for host, logits in found.items():
        torch.testing.assert_close(
            logits,
            found["lens"],
            rtol=0,
            atol=1e-5,
            msg=lambda text, host=host: f"{host}: {text}",
        )
    bare = tiny.logits(models["torch"], tokens)
    changes_something = edit != "none" or error_term is not True
    assert torch.equal(found["torch"], bare) != changes_something


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("k", [1, 3, 16, 48])
def test_logits_agree_for_every_k_and_site(models, site, k):
    tokens, sae = tiny.tokens(), tiny.sae(k=48)
    found = {}
    for host, model in models.items():
        with torch.no_grad(), sle.splice(model, {site: sae}, k=k) as spliced:
            found[host] = tiny.logits(model, tokens)
            assert spliced.codes[site].k == k
    for host, logits in found.items():
        torch.testing.assert_close(
            logits,
            found["lens"],
            rtol=0,
            atol=1e-5,
            msg=lambda text, host=host: f"{host}: {text}",
        )
    assert not torch.allclose(
        found["torch"], tiny.logits(models["torch"], tokens), atol=1e-3
    )


def test_sweeps_agree(models):
    tokens, saes = (
        tiny.tokens(rows=3),
        {SITE: tiny.sae(), "blocks.2.hook_mlp_out": tiny.sae(seed=1)},
    )
    frames = {
        host: sle.sweep_k(model, tokens, saes, ks=[1, 4, 8], progress=False)
        for host, model in models.items()
    }
    for host, frame in frames.items():
        for column in frame:
            assert frame[column].tolist() == pytest.approx(
                frames["lens"][column].tolist(), rel=1e-3, abs=1e-5
            ), f"{host}: {column}"


def test_directions_and_runs_agree(models):
    positive, negative, sae = tiny.tokens(seed=3), tiny.tokens(seed=4), tiny.sae()
    directions = {
        host: sle.difference_in_means(model, SITE, positive, negative)
        for host, model in models.items()
    }
    with torch.no_grad():
        at = {
            name: capture(
                host_for(models["torch"]),
                tokens,
                [host_for(models["torch"]).site(SITE)],
            )
            .popitem()[1][:, 1:]
            .flatten(0, 1)
            for name, tokens in (("positive", positive), ("negative", negative))
        }
    expected = at["positive"].mean(0) - at["negative"].mean(0)
    runs = {host: _run_of(model, positive, sae) for host, model in models.items()}
    for host in models:
        torch.testing.assert_close(directions[host], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            runs[host].codes[SITE].values,
            runs["lens"].codes[SITE].values,
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("host", tiny.HOSTS)
def test_names_of_one_place_are_one_place(host):
    found = host_for(tiny.hosted(host))
    after = {
        found.site(name).key
        for name in (
            SITE,
            "blocks.1.hook_out",
            "model.layers.1",
            "model.layers.1.output",
            "layers.1",
        )
    }
    before = {
        found.site(name).key
        for name in (
            "blocks.1.hook_resid_pre",
            "blocks.1.hook_in",
            "model.layers.1.input",
        )
    }
    assert len(after) == len(before) == 1
    assert after != before
    for name in ("model.layers.1", "layers.1"):
        assert (
            found.site(name).block,
            found.site(name).point,
            found.site(name).blocks_before,
        ) == (1, "resid_post", 2)


@pytest.mark.parametrize("host", tiny.HOSTS)
def test_an_sae_that_knows_only_the_path_of_a_module_finds_it(host):
    model, sae = tiny.hosted(host), tiny.sae()
    by_path = sae.with_config(
        hook_name=None, metadata={"hf_hook_name": "model.layers.1"}
    )
    tokens = tiny.tokens()
    with torch.no_grad():
        with sle.splice(model, sae):
            expected = tiny.logits(model, tokens)
        with sle.splice(model, by_path):
            assert torch.equal(tiny.logits(model, tokens), expected)


@pytest.mark.parametrize("host", ["torch", "nnsight"])
def test_any_module_s_output_or_input_is_a_site(host):
    model, tokens = tiny.hosted(host), tiny.tokens()
    bare = tiny.logits(model, tokens)
    for name, width in (
        ("model.layers.0.mlp.down_proj.input", 64),
        ("model.layers.3.mlp", 32),
        ("2.self_attn.v_proj", 16),
    ):
        with (
            torch.no_grad(),
            sle.splice(model, {name: tiny.sae(d_model=width, d_sae=96)}),
        ):
            assert not torch.allclose(tiny.logits(model, tokens), bare, atol=1e-3), name
    assert torch.equal(tiny.logits(model, tokens), bare)


@pytest.mark.parametrize("host", tiny.HOSTS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blocks.1.hook_resid_mid", "only the MLP's copy"),
        (
            "blocks.9.hook_resid_post",
            "no site 'blocks.9.hook_resid_post' in this model",
        ),
        ("blocks.1.hook_resid_pots", "the closest: blocks.1.hook_resid_post"),
        ("model.layers.9", "no site 'model.layers.9' in this model"),
    ],
)
def test_a_name_that_is_no_site_says_why(host, name, said):
    with pytest.raises(sle.UnknownSite, match=said):
        sle.splice(tiny.hosted(host), {name: tiny.sae()})


def test_a_path_that_ends_several_paths_is_not_guessed():
    with pytest.raises(
        sle.UnknownSite, match="it ends 4 paths, so write one of them out"
    ):
        sle.splice(tiny.hosted("torch"), {"mlp": tiny.sae()})


# Small configs of the families whose attention and MLP outputs have TransformerLens names on plain modules.
_SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_FAMILIES = {
    "gemma": {**_SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "gemma2": {**_SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "gemma3_text": {**_SIZES, "num_key_value_heads": 1, "head_dim": 8},
    "gpt2": {
        "vocab_size": 64,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 32,
    },
    "gpt_neox": {**_SIZES, "use_parallel_residual": True},
    "llama": {**_SIZES, "num_key_value_heads": 2},
    "mistral": {**_SIZES, "num_key_value_heads": 2},
    "olmo2": {**_SIZES, "num_key_value_heads": 2},
    "qwen2": {**_SIZES, "num_key_value_heads": 2},
    "qwen3": {**_SIZES, "num_key_value_heads": 2, "head_dim": 8},
}


@pytest.mark.parametrize("family", _FAMILIES)
def test_what_attention_and_mlp_add_is_what_the_stream_gains(family):
    token_ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(family, **_FAMILIES[family], **token_ids)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    host = host_for(model)
    sites = {
        end: host.site(f"blocks.1.{end}")
        for end in (
            "hook_resid_pre",
            "hook_attn_out",
            "hook_mlp_out",
            "hook_resid_post",
        )
    }
    with torch.no_grad():
        at = capture(host, torch.randint(3, 64, (2, 7)), sites.values())
    gained = (
        at[sites["hook_resid_pre"]]
        + at[sites["hook_attn_out"]]
        + at[sites["hook_mlp_out"]]
    )
    torch.testing.assert_close(
        gained, at[sites["hook_resid_post"]], rtol=1e-5, atol=1e-6
    )
    z = host.site("blocks.0.attn.hook_z")
    assert sle.Run.capture(
        model, torch.tensor([[2, 5, 7]]), {z.name: tiny.sae()}
    ).codes[z.name].values.shape == (1, 3, 8)


def test_a_family_that_was_not_checked_is_refused_there_and_nowhere_else():
    config = transformers.AutoConfig.for_model(
        "bloom", vocab_size=64, hidden_size=32, n_layer=2, n_head=4
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(
        sle.UnknownSite,
        match="of a bloom was not checked; give the path of a module instead, such as transformer.h.1",
    ):
        sle.splice(model, {"blocks.1.hook_attn_out": tiny.sae()})
    with sle.splice(model, {"blocks.1.hook_resid_post": tiny.sae()}) as spliced:
        model(torch.tensor([[5, 6]]))
        assert spliced.codes


def test_a_module_that_is_no_language_model_can_be_spliced_and_not_swept():
    model = torch.nn.Sequential(
        torch.nn.Embedding(9, 32), torch.nn.Linear(32, 32), torch.nn.Linear(32, 4)
    )
    tokens = torch.tensor([[1, 2, 3]])
    bare = model(tokens)
    with sle.splice(model, {"1": tiny.sae()}):
        assert not torch.equal(model(tokens), bare)
    assert torch.equal(model(tokens), bare)
    with pytest.raises(
        sle.UnsupportedHost,
        match="cannot tell which module of a Sequential makes the logits",
    ):
        sle.sweep_k(model, tokens, {"1": tiny.sae()}, progress=False)
    with pytest.raises(
        sle.InvalidArgument, match="a Sequential has no tokenizer; give token ids"
    ):
        sle.sweep_k(model, "text", {"1": tiny.sae()}, progress=False)


def test_a_compiled_model_is_spliced_and_comes_back():
    # In a process without run-time shape checks, which the compiler cannot see through.
    import subprocess
    import sys

    code = """
import sys; sys.path.insert(0, sys.argv[1])
import torch, tiny, sae_lens_ext as sle
torch.set_grad_enabled(False)
tokens, sae, plain = tiny.tokens(), tiny.sae(), tiny.hf_model("gpt2")
wrapped, inplace = torch.compile(tiny.hf_model("gpt2"), backend="aot_eager"), tiny.hf_model("gpt2")
part, forward = tiny.hf_model("gpt2"), tiny.hf_model("gpt2")
inplace.compile(backend="aot_eager")
part.transformer = torch.compile(part.transformer, backend="aot_eager")
forward.forward = torch.compile(forward.forward, backend="aot_eager")
for model in (wrapped, inplace, part, forward):
    bare = model(tokens).logits
    with sle.splice(model, sae, k=4) as spliced:
        for k in (4, 2):
            spliced.k = k
            with sle.splice(plain, sae, k=k):
                torch.testing.assert_close(model(tokens).logits, plain(tokens).logits)
    assert torch.equal(model(tokens).logits, bare)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(TESTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
