"""Integrated gradients add up to the measured change."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.circuits import effects, logit_difference
from sae_lens_ext.circuits.integrated import Path

METRIC = logit_difference(7, 9)
SITES = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")


@pytest.fixture(scope="module")
def model():
    return tiny.hf_model("gemma3")


def test_pairs_are_complete_at_every_site(model):
    saes = [tiny.sae(hook_name=site) for site in SITES]
    result = effects(
        model,
        saes,
        tiny.tokens(2, 6),
        tiny.tokens(2, 6, seed=1),
        metric=METRIC,
        method="integrated_gradients",
        steps=48,
    )
    change = result.metric_clean - result.metric_corrupted
    assert change.abs().min() > 0.05
    for site, totals in result.totals().items():
        # All positions of the stream are what the metric depends on.
        assert (totals - change).abs().max() < 2e-3
        gap = totals - change
        assert (result.completeness_gap[site] - gap).abs().max() < 1e-5


def test_more_steps_leave_a_smaller_gap(model):
    gaps = []
    for steps in (4, 64):
        result = effects(
            model,
            tiny.sae(),
            tiny.tokens(2, 6),
            metric=METRIC,
            method="integrated_gradients",
            steps=steps,
        )
        (gap,) = result.completeness_gap.values()
        gaps.append(gap.abs().max().item())
    assert gaps[0] > 20 * gaps[1]


def test_the_gap_is_of_the_positions_that_are_looked_at(model):
    tokens = tiny.tokens(2, 6)
    sae = tiny.sae()
    result = effects(
        model,
        sae,
        tokens,
        metric=METRIC,
        method="integrated_gradients",
        steps=1,
        positions=[3],
    )
    # An empty code: all that the SAE writes there is its bias.
    empty = sle.SAE.from_tensors(
        sae.config, **{**sae.weights(), "W_dec": torch.zeros_like(sae.W_dec)}
    )
    with torch.no_grad():
        clean = model(tokens).logits[:, -1]
        with sle.splice(model, empty, positions=[3]):
            change = clean - model(tokens).logits[:, -1]
    (totals,) = result.totals().values()
    (gap,) = result.completeness_gap.values()
    expected = totals - (change[:, 7] - change[:, 9])
    assert (gap - expected).abs().max() < 1e-5
    assert gap.abs().max() > 1e-2


def test_a_path_leads_from_the_baseline_to_the_clean_activation():
    clean = torch.tensor([[[2.0], [3.0]]])
    path = Path(clean, torch.tensor([[[0.0], [0.0]]]), torch.tensor([[True, False]]))
    assert path.at(1.0).tolist() == [[[2.0], [3.0]]]
    assert path.at(0.25).tolist() == [[[0.5], [3.0]]]
    assert path.at(0.0).tolist() == [[[0.0], [3.0]]]
