"""Edits of features make the same change as by hand on a dense code."""

import dataclasses

import pytest
import tiny
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"
FEATURES = [7, 3, 30, 12]

# An edit, from a run, and the activations that it makes, from those it is given and
# those of the run.
BY_HAND = {
    "ablate": (
        lambda run: sle.Ablate(FEATURES),
        lambda acts, source: torch.zeros_like(acts),
    ),
    "to a number": (
        lambda run: sle.Ablate(FEATURES, to=2.5),
        lambda acts, source: torch.where(acts != 0, 2.5, acts),
    ),
    "to numbers": (
        lambda run: sle.Ablate(FEATURES, to=[1, 2, 3, 4]),
        lambda acts, source: torch.where(acts != 0, torch.tensor([1.0, 2, 3, 4]), acts),
    ),
    "to the mean": (
        lambda run: sle.Ablate(FEATURES, to="mean"),
        lambda acts, source: torch.where(acts != 0, acts.mean((0, 1)), acts),
    ),
    "resample": (
        lambda run: sle.Ablate(FEATURES, to=run),
        lambda acts, source: torch.where(acts != 0, source, acts),
    ),
    "steer": (
        lambda run: sle.Steer(FEATURES, by=-1.5),
        lambda acts, source: acts - 1.5,
    ),
    "clamp": (
        lambda run: sle.Clamp(FEATURES, to=[0.5, 1, 1.5, 2]),
        lambda acts, source: torch.tensor([0.5, 1, 1.5, 2]).expand_as(acts),
    ),
    "scale": (lambda run: sle.Scale(FEATURES, by=3), lambda acts, source: 3 * acts),
    "patch": (lambda run: sle.Patch(FEATURES, source=run), lambda acts, source: source),
}


@pytest.mark.parametrize("error_term", [False, True])
@pytest.mark.parametrize("name", BY_HAND)
def test_makes_the_same_change_as_on_a_dense_code(
    model, change_by_edits, sae, name, error_term
):
    make, by_hand = BY_HAND[name]
    run = sle.Run.capture(model, tiny.tokens(rows=4, seed=1), sae)
    change, code = change_by_edits(
        sae, [make(run)], tiny.tokens(rows=4), error_term=error_term
    )
    acts = code.dense()[..., FEATURES]
    source = run.codes[SITE].dense()[..., FEATURES]
    assert (acts != 0).any(), (
        "an edit of features that are never active would show nothing"
    )
    expected = (by_hand(acts, source) - acts) @ sae.W_dec[FEATURES]
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=2e-5)


def test_edits_act_in_the_order_of_the_list(change_by_edits, sae):
    tokens = tiny.tokens()
    steer = sle.Steer(7, by=1.0)
    scale = sle.Scale(7, by=3)
    scaled_last, _ = change_by_edits(sae, [steer, scale], tokens)
    steered_last, _ = change_by_edits(sae, [scale, steer], tokens)
    expected = (2 * sae.W_dec[7]).expand_as(scaled_last)
    torch.testing.assert_close(
        scaled_last - steered_last, expected, rtol=1e-4, atol=1e-5
    )


def test_the_mean_is_over_the_tokens_that_are_spliced(change_by_edits):
    sae = tiny.sae(exclude_special_tokens=True)
    edits = [sle.Ablate(range(48), to="mean")]
    change, code = change_by_edits(sae, edits, tiny.tokens(rows=4))
    acts = code.dense()
    expected = torch.where(acts != 0, acts[:, 1:].mean((0, 1)), acts) - acts
    torch.testing.assert_close(
        change[:, 1:], (expected @ sae.W_dec)[:, 1:], rtol=1e-4, atol=2e-5
    )


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sle.Ablate(3, to="median"),
            "to must be 'zero', 'mean', a number, one number per feature, or a Run; "
            "got 'median'",
        ),
        (
            lambda: sle.Patch(3, source=None),
            r"source must be a Run, such as Run.capture\(model, other_tokens, sae\); "
            "got an object of type NoneType",
        ),
    ],
)
def test_rejects_an_invalid_source_of_activations(make, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        make()


def test_rejects_a_run_of_another_shape_or_site(model, change_by_edits, sae):
    run = sle.Run.capture(model, tiny.tokens(rows=3), sae)
    message = "the run to take activations from at .* has 3 rows; this run has 2"
    with pytest.raises(sle.ShapeMismatch, match=message):
        change_by_edits(sae, [sle.Patch(3, source=run)], tiny.tokens())

    elsewhere = sle.Run({"blocks.0.hook_resid_post": run.codes[SITE]})
    message = (
        "this run was not captured at 'blocks.1.hook_resid_post'; it was at: blocks.0"
    )
    with pytest.raises(sle.UnknownSite, match=message):
        change_by_edits(sae, [sle.Patch(3, source=elsewhere)], tiny.tokens())


@pytest.mark.parametrize(
    "make",
    [lambda run: sle.Patch([3], source=run), lambda run: sle.Ablate([3], to=run)],
)
def test_a_run_serves_only_where_it_kept_features(model, change_by_edits, sae, make):
    tokens = tiny.tokens()
    shorter = sle.Run.capture(model, tiny.tokens(length=6), sae)
    message = (
        r"reaches positions \[6, 7, 8, 9\], "
        "where the run it takes activations from kept no features"
    )
    with pytest.raises(sle.ShapeMismatch, match=message):
        change_by_edits(sae, [make(shorter)], tokens)
    only_last = sle.Run.capture(model, tokens, sae, positions=[-1])
    with pytest.raises(sle.ShapeMismatch, match="reaches positions"):
        change_by_edits(sae, [make(only_last)], tokens)

    for run in (shorter, only_last):
        positions = run.mask(SITE)[0].nonzero().flatten().tolist()
        edit = dataclasses.replace(make(run), positions=positions)
        change_by_edits(sae, [edit], tokens)


def test_does_not_patch_tokens_that_generation_adds(gpt2, sae):
    tokens = tiny.tokens(rows=1)
    run = sle.Run.capture(gpt2, tokens, sae)
    options = {"max_new_tokens": 4, "do_sample": False, "verbose": False}
    edits = [sle.Patch(range(48), source=run)]
    with torch.no_grad():
        bare = gpt2.generate(tokens, **options)
        with sle.splice(gpt2, sae, error_term=True, edits=edits):
            assert torch.equal(gpt2.generate(tokens, **options), bare), (
                "patching a run into itself changes nothing"
            )
