"""The hook points inside a splice, under SAELens' names and TransformerLens' own mechanism."""

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
    return tiny.sae()


@pytest.mark.parametrize("prefix", [SITE, "blocks.1.hook_out"])
def test_a_cache_holds_them(model, sae, prefix):
    tokens = tiny.tokens()
    _, bare = model.run_with_cache(tokens, names_filter=SITE)
    x = bare[SITE]
    with (
        torch.no_grad(),
        sle.splice(
            model, {prefix: sae}, k=3, error_term=True, edits=[sle.Steer(5, by=2.0)]
        ),
    ):
        _, cache = model.run_with_cache(
            tokens, names_filter=lambda name: ".hook_sae_" in name
        )
        found = {point: cache[f"{prefix}.{point}"] for point in POINTS}
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
            found[point],
            expected[point],
            rtol=1e-4,
            atol=1e-5,
            msg=lambda text, point=point: f"{point}: {text}",
        )


@pytest.mark.parametrize("error_term", [True, "reference"])
def test_what_is_explained_and_the_error_make_up_the_output(model, sae, error_term):
    tokens, edits = tiny.tokens(), [sle.Steer(5, by=2.0)]
    with (
        torch.no_grad(),
        sle.splice(model, sae, k=3, error_term=error_term, edits=edits) as spliced,
    ):
        _, cache = model.run_with_cache(
            tokens, names_filter=lambda name: ".hook_sae_" in name
        )
        found = {point: cache[f"{SITE}.{point}"] for point in POINTS}
        without = model.run_with_hooks(
            tokens,
            fwd_hooks=[
                (f"{SITE}.hook_sae_error", lambda error, hook: torch.zeros_like(error))
            ],
        )
        spliced.error_term = False
        torch.testing.assert_close(without, model(tokens), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found["hook_sae_recons"] + found["hook_sae_error"],
        found["hook_sae_output"],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("error_term", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_what_a_hook_changes_there_changes_the_model(model, sae, error_term, in_place):
    tokens = tiny.tokens()

    def silence(acts, hook):
        if in_place:
            acts[..., :24] = 0
            return None
        return torch.cat([torch.zeros_like(acts[..., :24]), acts[..., 24:]], -1)

    with torch.no_grad():
        with sle.splice(model, sae, k=3, error_term=error_term):
            hooked = model.run_with_hooks(
                tokens, fwd_hooks=[(f"{SITE}.hook_sae_acts_post", silence)]
            )
            untouched = model(tokens)
        with sle.splice(
            model, sae, k=3, error_term=error_term, edits=[sle.Ablate(range(24))]
        ):
            edited = model(tokens)
    torch.testing.assert_close(hooked, edited, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(hooked, untouched, atol=1e-3)


def test_the_other_points_can_be_changed_too(model, sae):
    tokens = tiny.tokens()
    for point, expected in (
        ("hook_sae_recons", 1.0),
        ("hook_sae_error", 1.0),
        ("hook_sae_output", 1.0),
    ):
        seen = {}
        for name, hooks in (
            ("clean", []),
            ("changed", [(f"{SITE}.{point}", lambda tensor, hook: tensor + 1)]),
        ):
            with torch.no_grad(), sle.splice(model, sae, k=3, error_term=True):
                keep = (
                    SITE,
                    lambda x, hook, name=name, seen=seen: seen.update(
                        {name: x.clone()}
                    ),
                )
                model.run_with_hooks(tokens, fwd_hooks=[*hooks, keep])
        torch.testing.assert_close(
            seen["changed"] - seen["clean"],
            torch.full((2, 10, 32), expected),
            rtol=1e-4,
            atol=1e-5,
        )


def test_nothing_dense_is_built_when_nobody_listens(model, sae, monkeypatch):
    monkeypatch.setattr(
        sle.SparseCode, "dense", lambda self: pytest.fail("a dense code was built")
    )
    with (
        torch.no_grad(),
        sle.splice(model, sae, error_term=True, edits=[sle.Steer(3, by=1.0)]),
    ):
        model(tiny.tokens())


@pytest.mark.parametrize("name", ["gemma2", "gpt2"])
def test_gradients_reach_the_features(name):
    model, sae, kept = tiny.bridge(name, torch.float64), tiny.sae().double(), {}

    def keep(acts, hook):
        acts.retain_grad()
        kept["acts"] = acts

    tokens = tiny.tokens()
    with sle.splice(model, sae, k=3, error_term=True):
        logits = model.run_with_hooks(
            tokens, fwd_hooks=[(f"{SITE}.hook_sae_acts_post", keep)]
        )
        logits[:, -1].square().sum().backward()
    acts, grad = kept["acts"].detach(), kept["acts"].grad
    # What the gradient says of a small step along one feature is what the step does.
    row, position, feature = (torch.nonzero(acts)[-1]).tolist()
    # Gemma computes its norms in float32 whatever the model is in, so a small step would drown in rounding.
    step = {"gemma2": 3e-2, "gpt2": 1e-4}[name]

    def measured(by):
        with (
            torch.no_grad(),
            sle.splice(
                model,
                sae,
                k=3,
                error_term=True,
                edits=[sle.Steer(feature, by=by, rows=[row], positions=[position])],
            ),
        ):
            return model(tokens)[:, -1].square().sum().item()

    assert (measured(step) - measured(-step)) / (2 * step) == pytest.approx(
        grad[row, position, feature].item(), rel=1e-2
    )


def test_the_points_go_with_the_splice(model, sae):
    before = set(model.hook_dict)
    with sle.splice(model, sae) as first:
        assert set(model.hook_dict) - before == {
            f"{prefix}.{point}"
            for prefix in (SITE, "blocks.1.hook_out")
            for point in POINTS
        }
        with sle.splice(model, tiny.sae(seed=1)):
            model(tiny.tokens())
        assert f"{SITE}.hook_sae_input" in model.hook_dict
        assert first.saes
        assert not any("hook_sae" in name for name in model.state_dict())
    assert set(model.hook_dict) == before
