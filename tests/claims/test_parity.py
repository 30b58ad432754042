"""One splice gives the same numbers on every host.

TransformerLens, nnsight and plain torch run the same weights.

Hosts differ in two ways that a splice has no part in. They may use different
implementations of attention: a bridge always uses the eager one, a Hugging Face model
by default another. And they may sum in different orders. So the arithmetic is compared
in float64, on models with one implementation of attention, where nothing but the order
of sums can differ; and in float32, on models as users get them, every host must be as
exact as TransformerLens is.
"""

import harness
import pytest
import tiny
import torch

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
# In float64 the hosts were seen to differ by at most 4e-16.
ATOL = 1e-12


# By a function that captures another run; most edits do not need one.
EDITS = {
    "none": lambda capture: [],
    "ablate": lambda capture: [sle.Ablate(range(24))],
    "ablate-to-mean": lambda capture: [sle.Ablate(range(24), to="mean")],
    "resample": lambda capture: [sle.Ablate(range(24), to=capture())],
    "steer": lambda capture: [sle.Steer(5, by=4.0)],
    "clamp": lambda capture: [sle.Clamp([5, 6], to=[2.0, -1.0])],
    "scale": lambda capture: [sle.Scale(range(24), by=0.5)],
    "patch": lambda capture: [sle.Patch(range(24), source=capture())],
    "add-direction": lambda capture: [
        sle.AddDirection(torch.linspace(-1, 1, 32), scale=3.0)
    ],
}


@pytest.fixture(scope="module", params=["gemma2", "gemma3", "gpt2"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def models(family):
    """As users get them, in float32."""
    return {host: tiny.hosted(host, family) for host in tiny.HOSTS}


@pytest.fixture(scope="module")
def exact_models(family):
    """In float64, with one implementation of attention."""
    return {
        host: tiny.hosted(host, family, torch.float64, attention="eager")
        for host in tiny.HOSTS
    }


def _run_of(model, tokens, sae):
    return sle.Run.capture(model, tokens, sae, k=8)


def _edited_logits(model, edit, error_term, dtype):
    sae = tiny.sae().to(dtype)
    edits = EDITS[edit](lambda: sle.Run.capture(model, tiny.tokens(seed=1), sae, k=8))
    with (
        torch.no_grad(),
        sle.splice(model, sae, k=3, error_term=error_term, edits=edits),
    ):
        return tiny.logits(model, tiny.tokens())


def _logits_at(model, site, k, dtype):
    sae = tiny.sae(k=48).to(dtype)
    with torch.no_grad(), sle.splice(model, {site: sae}, k=k) as spliced:
        logits = tiny.logits(model, tiny.tokens())
        assert spliced.codes[site].k == k
    return logits


def _assert_equal_arithmetic(logits):
    for host, of_host in logits.items():
        assert of_host.dtype == torch.float64
        torch.testing.assert_close(
            of_host,
            logits["lens"],
            rtol=0,
            atol=ATOL,
            msg=lambda text, host=host: f"{host}: {text}",
        )


def _assert_as_exact_as_transformerlens(logits, exact):
    for host, of_host in logits.items():
        harness.assert_within_budget(host, of_host, logits["lens"], exact)


@pytest.mark.parametrize("error_term", [False, True, "reference"])
@pytest.mark.parametrize("edit", EDITS)
def test_logits_agree_for_every_edit(exact_models, edit, error_term):
    logits = {
        host: _edited_logits(model, edit, error_term, torch.float64)
        for host, model in exact_models.items()
    }
    _assert_equal_arithmetic(logits)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("k", [1, 3, 16, 48])
def test_logits_agree_for_every_k_and_site(exact_models, site, k):
    logits = {
        host: _logits_at(model, site, k, torch.float64)
        for host, model in exact_models.items()
    }
    _assert_equal_arithmetic(logits)


@pytest.mark.parametrize("error_term", [False, True, "reference"])
@pytest.mark.parametrize("edit", EDITS)
def test_hosts_are_equally_exact_for_every_edit(models, exact_models, edit, error_term):
    logits = {
        host: _edited_logits(model, edit, error_term, torch.float32)
        for host, model in models.items()
    }
    exact = _edited_logits(exact_models["torch"], edit, error_term, torch.float64)
    _assert_as_exact_as_transformerlens(logits, exact)

    bare = tiny.logits(models["torch"], tiny.tokens())
    changes_something = edit != "none" or error_term is not True
    assert torch.equal(logits["torch"], bare) != changes_something


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("k", [1, 3, 16, 48])
def test_hosts_are_equally_exact_for_every_k_and_site(models, exact_models, site, k):
    logits = {
        host: _logits_at(model, site, k, torch.float32)
        for host, model in models.items()
    }
    exact = _logits_at(exact_models["torch"], site, k, torch.float64)
    _assert_as_exact_as_transformerlens(logits, exact)

    bare = tiny.logits(models["torch"], tiny.tokens())
    assert not torch.allclose(logits["torch"], bare, atol=1e-3)


@pytest.mark.parametrize("host", ["torch", "nnsight", "transformers_model"])
def test_the_comparison_notices_a_host_that_reads_one_feature_less(exact_models, host):
    logits = {
        name: _logits_at(exact_models[name], SITE, k, torch.float64)
        for name, k in (("lens", 16), (host, 15))
    }
    with pytest.raises(AssertionError, match=host):
        _assert_equal_arithmetic(logits)
    single = {name: value.float() for name, value in logits.items()}
    with pytest.raises(AssertionError, match=f"{host}: error .* over budget"):
        _assert_as_exact_as_transformerlens(single, logits["lens"])


def test_sweeps_agree(models):
    tokens = tiny.tokens(rows=3)
    saes = {SITE: tiny.sae(), "blocks.2.hook_mlp_out": tiny.sae(seed=1)}
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
    positive = tiny.tokens(seed=3)
    negative = tiny.tokens(seed=4)
    expected = _mean_activation(models["torch"], positive)
    expected = expected - _mean_activation(models["torch"], negative)
    runs = {
        host: _run_of(model, positive, tiny.sae()) for host, model in models.items()
    }
    for host, model in models.items():
        direction = sle.difference_in_means(model, SITE, positive, negative)
        torch.testing.assert_close(direction, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            runs[host].codes[SITE].values,
            runs["lens"].codes[SITE].values,
            rtol=1e-4,
            atol=1e-5,
        )


def _mean_activation(model, tokens):
    """At the site, over all positions but the first, which holds BOS."""
    host = host_for(model)
    site = host.site(SITE)
    with torch.no_grad():
        activation = capture(host, tokens, [site])[site]
    return activation[:, 1:].flatten(0, 1).mean(0)


@pytest.mark.parametrize("name", tiny.HOSTS)
def test_all_names_of_one_place_lead_to_it(name):
    host = host_for(tiny.hosted(name))
    after = {
        host.site(spelling).key
        for spelling in (
            SITE,
            "blocks.1.hook_out",
            "model.layers.1",
            "model.layers.1.output",
            "layers.1",
        )
    }
    before = {
        host.site(spelling).key
        for spelling in (
            "blocks.1.hook_resid_pre",
            "blocks.1.hook_in",
            "model.layers.1.input",
        )
    }
    assert len(after) == len(before) == 1
    assert after != before

    for path in ("model.layers.1", "layers.1"):
        site = host.site(path)
        assert (site.block, site.point, site.blocks_before) == (1, "resid_post", 2)


@pytest.mark.parametrize("host", tiny.HOSTS)
def test_an_sae_that_knows_only_the_path_of_a_module_finds_it(host):
    model = tiny.hosted(host)
    sae = tiny.sae()
    by_path = sae.with_config(
        hook_name=None, metadata={"hf_hook_name": "model.layers.1"}
    )
    tokens = tiny.tokens()
    with torch.no_grad():
        with sle.splice(model, sae):
            expected = tiny.logits(model, tokens)
        with sle.splice(model, by_path):
            assert torch.equal(tiny.logits(model, tokens), expected)


@pytest.mark.parametrize("host", tiny.HOSTS)
@pytest.mark.parametrize(
    ("name", "reason"),
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
def test_rejects_an_unknown_site_with_the_reason(host, name, reason):
    with pytest.raises(sle.UnknownSite, match=reason):
        sle.splice(tiny.hosted(host), {name: tiny.sae()})
