"""The points inside a splice have SAELens' names and TransformerLens' mechanism."""

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"
POINTS = [
    "hook_sae_input",
    "hook_sae_acts_post",
    "hook_sae_recons",
    "hook_sae_error",
    "hook_sae_output",
]


@pytest.fixture
def sae():
    """A random SAE after block 1."""
    return tiny.sae()


def _is_point(name):
    return ".hook_sae_" in name


@pytest.mark.parametrize("prefix", [SITE, "blocks.1.hook_out"])
def test_a_cache_holds_the_points(model, sae, prefix):
    tokens = tiny.tokens()
    _, bare = model.run_with_cache(tokens, names_filter=SITE)
    x = bare[SITE]
    edits = [sle.Steer(5, by=2.0)]
    with (
        torch.no_grad(),
        sle.splice(model, {prefix: sae}, k=3, error_term=True, edits=edits),
    ):
        _, cache = model.run_with_cache(tokens, names_filter=_is_point)

    acts = sae.encode(x, 3).dense()
    acts[..., 5] += 2.0
    recons = acts @ sae.W_dec + sae.b_dec
    expected = {
        "hook_sae_input": x,
        "hook_sae_acts_post": acts,
        "hook_sae_recons": recons,
        "hook_sae_error": x - sae(x, 3),
        "hook_sae_output": recons + x - sae(x, 3),
    }
    for point in POINTS:
        torch.testing.assert_close(
            cache[f"{prefix}.{point}"],
            expected[point],
            rtol=1e-4,
            atol=1e-5,
            msg=lambda text, point=point: f"{point}: {text}",
        )


@pytest.mark.parametrize("error_term", [True, "reference"])
def test_the_reconstruction_and_the_error_make_up_the_output(model, sae, error_term):
    tokens = tiny.tokens()
    edits = [sle.Steer(5, by=2.0)]
    with (
        torch.no_grad(),
        sle.splice(model, sae, k=3, error_term=error_term, edits=edits) as spliced,
    ):
        _, cache = model.run_with_cache(tokens, names_filter=_is_point)
        remove_error = (
            f"{SITE}.hook_sae_error",
            lambda error, hook: torch.zeros_like(error),
        )
        without_error = model.run_with_hooks(tokens, fwd_hooks=[remove_error])
        spliced.error_term = False
        torch.testing.assert_close(without_error, model(tokens), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        cache[f"{SITE}.hook_sae_recons"] + cache[f"{SITE}.hook_sae_error"],
        cache[f"{SITE}.hook_sae_output"],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("error_term", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_hook_that_changes_features_changes_the_model(
    model, sae, error_term, in_place
):
    tokens = tiny.tokens()

    def silence(acts, hook):
        if in_place:
            acts[..., :24] = 0
            return None
        return torch.cat([torch.zeros_like(acts[..., :24]), acts[..., 24:]], -1)

    with torch.no_grad():
        with sle.splice(model, sae, k=3, error_term=error_term):
            hook = (f"{SITE}.hook_sae_acts_post", silence)
            hooked = model.run_with_hooks(tokens, fwd_hooks=[hook])
            untouched = model(tokens)
        edits = [sle.Ablate(range(24))]
        with sle.splice(model, sae, k=3, error_term=error_term, edits=edits):
            edited = model(tokens)
    torch.testing.assert_close(hooked, edited, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(hooked, untouched, atol=1e-3)


@pytest.mark.parametrize(
    "point", ["hook_sae_recons", "hook_sae_error", "hook_sae_output"]
)
def test_a_hook_that_adds_at_another_point_adds_to_the_output(model, sae, point):
    tokens = tiny.tokens()
    add_one = (f"{SITE}.{point}", lambda tensor, hook: tensor + 1)
    outputs = []
    keep = (SITE, lambda x, hook: outputs.append(x.clone()))
    with torch.no_grad(), sle.splice(model, sae, k=3, error_term=True):
        model.run_with_hooks(tokens, fwd_hooks=[keep])
        model.run_with_hooks(tokens, fwd_hooks=[add_one, keep])
    clean, changed = outputs
    torch.testing.assert_close(
        changed - clean, torch.ones(2, 10, 32), rtol=1e-4, atol=1e-5
    )


def test_nothing_dense_is_built_without_listeners(model, sae, monkeypatch):
    monkeypatch.setattr(
        sle.SparseCode, "dense", lambda self: pytest.fail("a dense code was built")
    )
    edits = [sle.Steer(3, by=1.0)]
    with torch.no_grad(), sle.splice(model, sae, error_term=True, edits=edits):
        model(tiny.tokens())


# Gemma computes its norms in float32 whatever the model is in, so a small step would
# drown in rounding.
@pytest.mark.parametrize(("name", "step"), [("gemma2", 3e-2), ("gpt2", 1e-4)])
def test_gradients_at_features_are_the_measured_effects(name, step):
    """The effect of a small step along one feature is its gradient times the step."""
    model = tiny.bridge(name, torch.float64)
    sae = tiny.sae().double()
    tokens = tiny.tokens()
    leaves = []

    def keep(acts, hook):
        acts.retain_grad()
        leaves.append(acts)

    with sle.splice(model, sae, k=3, error_term=True):
        hook = (f"{SITE}.hook_sae_acts_post", keep)
        logits = model.run_with_hooks(tokens, fwd_hooks=[hook])
        logits[:, -1].square().sum().backward()
    (acts,) = leaves
    row, position, feature = torch.nonzero(acts.detach())[-1].tolist()

    def metric_after(by):
        edits = [sle.Steer(feature, by=by, rows=[row], positions=[position])]
        with torch.no_grad(), sle.splice(model, sae, k=3, error_term=True, edits=edits):
            return model(tokens)[:, -1].square().sum().item()

    slope = (metric_after(step) - metric_after(-step)) / (2 * step)
    gradient = acts.grad[row, position, feature].item()
    assert slope == pytest.approx(gradient, rel=1e-2)


def test_the_points_go_with_the_splice(model, sae):
    names = set(model.hook_dict)
    with sle.splice(model, sae) as first:
        assert set(model.hook_dict) - names == {
            f"{prefix}.{point}"
            for prefix in (SITE, "blocks.1.hook_out")
            for point in POINTS
        }
        with sle.splice(model, tiny.sae(seed=1)):
            model(tiny.tokens())
        assert f"{SITE}.hook_sae_input" in model.hook_dict
        assert first.saes
        assert not any("hook_sae" in name for name in model.state_dict())
    assert set(model.hook_dict) == names


@pytest.mark.parametrize(
    "options",
    [
        {"k": 3, "error_term": True},
        {"k": 3, "error_term": "reference"},
        {"k": sle.until_fvu(0.3), "error_term": True},
        {"k": torch.tensor([2] + [5] * 9), "error_term": True},
        {"error_term": True, "edits": [sle.Steer(5, by=2.0)]},
    ],
    ids=str,
)
def test_points_show_tokens_that_are_left_alone_as_they_are(model, options):
    """Their codes are zero; the points show what the SAE would make of them."""
    sae = tiny.sae(exclude_special_tokens=True)
    tokens = tiny.tokens()
    with torch.no_grad(), sle.splice(model, sae, **options) as spliced:
        _, cache = model.run_with_cache(tokens, names_filter=_is_point)
        codes = spliced.codes[SITE].dense()
        alone = {**options, "edits": []}
        with_all = {}
        spliced.edits = alone["edits"]
        spliced.positions = "all"
        _, with_all = model.run_with_cache(tokens, names_filter=_is_point)
    assert not codes[:, 0].any()
    for point in ("input", "acts_post", "recons", "error"):
        name = f"{SITE}.hook_sae_{point}"
        torch.testing.assert_close(
            cache[name][:, 0], with_all[name][:, 0], rtol=1e-4, atol=1e-5
        )
    x = cache[f"{SITE}.hook_sae_input"]
    assert torch.equal(cache[f"{SITE}.hook_sae_output"][:, 0], x[:, 0])
    if options["error_term"] is True:
        made_up = cache[f"{SITE}.hook_sae_recons"] + cache[f"{SITE}.hook_sae_error"]
        torch.testing.assert_close(made_up[:, 0], x[:, 0], rtol=1e-4, atol=1e-5)


def test_a_hook_at_a_point_does_not_reach_tokens_that_are_left_alone(model):
    sae = tiny.sae(exclude_special_tokens=True)
    tokens = tiny.tokens()
    outputs = []
    hooks = [
        (f"{SITE}.hook_sae_acts_post", lambda acts, hook: acts + 1),
        (f"{SITE}.hook_sae_recons", lambda recons, hook: recons + 1),
        (SITE, lambda x, hook: outputs.append(x.clone())),
    ]
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=hooks[2:])
        with sle.splice(model, sae):
            model.run_with_hooks(tokens, fwd_hooks=hooks)
    bare, hooked = outputs
    assert torch.equal(hooked[:, 0], bare[:, 0])
    assert not torch.isclose(hooked[:, 1:], bare[:, 1:]).all(-1).any()


def test_a_token_without_finite_numbers_is_shown_as_zeros(model, sae):
    tokens = tiny.tokens()

    def spoil(x, hook):
        x = x.clone()
        x[0, 0] = torch.nan
        return x

    with torch.no_grad(), sle.splice(model, sae, positions=slice(1, None)):
        hooks = {}
        keep = [
            (f"{SITE}.hook_sae_{point}", lambda x, hook: hooks.update({hook.name: x}))
            for point in ("acts_post", "recons")
        ]
        hook = (f"{SITE}.hook_sae_input", spoil)
        model.run_with_hooks(tokens, fwd_hooks=[hook, *keep])
    for shown in hooks.values():
        assert not shown[0, 0].any()
        assert shown[1, 0].any()
