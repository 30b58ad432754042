"""A run records the features that a splice would see."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.interventions.recording import activations_of

SITE = "blocks.1.hook_resid_post"
FEATURES = [7, 3, 30, 12]


@pytest.mark.parametrize("positions", [None, "all", slice(2, 4), [0, -1]])
def test_records_what_a_splice_sees(model, positions):
    sae = tiny.sae(exclude_special_tokens=True)
    tokens = tiny.tokens()
    with (
        torch.no_grad(),
        sle.splice(model, sae, error_term=True, positions=positions) as spliced,
    ):
        model(tokens)
    code = sle.Run.capture(model, tokens, sae, positions=positions).codes[SITE]
    assert torch.equal(code.dense(), spliced.codes[SITE].dense())
    # The first token is BOS.
    assert bool(code.values[:, 0].any()) == (positions in ("all", [0, -1]))


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_codes_that_are_not_by_site():
    with pytest.raises(
        sle.InvalidArgument, match=r"codes must be codes \[batch, pos, k\] by site name"
    ):
        sle.Run(None)


@pytest.mark.usefixtures("without_shape_checks")
def test_answers_to_both_spellings_and_only_about_its_features(model, sae):
    run = sle.Run.capture(model, tiny.tokens(), sae)
    assert torch.equal(
        run.activations("blocks.1.hook_out", 3), run.activations(SITE, [3])
    )
    for features in (-1, [48], [], [1.0]):
        with pytest.raises(sle.InvalidArgument, match="features"):
            run.activations(SITE, features)


def test_rejects_a_mask_over_another_number_of_features(model, sae):
    run = sle.Run.capture(model, tiny.tokens(), sae)
    for mask in (torch.ones(20, dtype=torch.bool), torch.arange(60) < 5):
        with pytest.raises(
            sle.ShapeMismatch, match=rf"the mask is over {len(mask)} features"
        ):
            run.activations(SITE, mask)


def test_its_mean_is_the_mean_that_ablating_uses(model, change_by_edits):
    sae = tiny.sae(exclude_special_tokens=True)
    tokens = tiny.tokens()
    mean = sle.Run.capture(model, tokens, sae).mean_activations(SITE, FEATURES)
    by_mean, _ = change_by_edits(sae, [sle.Ablate(FEATURES, to="mean")], tokens)
    by_numbers, _ = change_by_edits(sae, [sle.Ablate(FEATURES, to=mean)], tokens)
    torch.testing.assert_close(by_mean, by_numbers)


def test_rejects_a_mean_over_no_token(model, sae):
    run = sle.Run.capture(model, tiny.tokens(), sae, positions=slice(50, None))
    with pytest.raises(
        sle.InvalidArgument,
        match=f"this run kept no features at {SITE}, so they have no mean",
    ):
        run.mean_activations(SITE, [1, 2])


def test_columns_of_a_code_are_those_of_the_dense_one():
    indices = torch.stack([torch.randperm(9)[:4] for _ in range(10)]).view(2, 5, 4)
    code = sle.SparseCode(torch.rand(2, 5, 4), indices, 9)
    torch.testing.assert_close(
        activations_of(code, [8, 0, 3]), code.dense()[..., [8, 0, 3]]
    )
