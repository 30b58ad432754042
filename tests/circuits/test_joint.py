"""Effects while all nodes come back together: gates of nodes are the oracle."""

import pytest
import tiny
import torch

from sae_lens_ext.circuits import effects, logit_difference
from sae_lens_ext.circuits.alignment import Alignment
from sae_lens_ext.circuits.analysis import Analysis
from sae_lens_ext.circuits.faithfulness.controls import (
    coordinate_effects,
    coordinate_nodes,
)
from sae_lens_ext.circuits.joint import ALL_SITES
from sae_lens_ext.circuits.quadrature import gauss_points
from sae_lens_ext.circuits.running.keys import SiteWeights
from sae_lens_ext.circuits.running.runner import CircuitRunner, feature_sites

METRIC = logit_difference(7, 9)
SITES = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")


@pytest.fixture(scope="module")
def model():
    return tiny.hf_model("gemma3")


@pytest.fixture(scope="module")
def saes():
    return [tiny.sae(hook_name=site, seed=seed) for seed, site in enumerate(SITES)]


def pairs():
    return tiny.tokens(2, 5), tiny.tokens(2, 5, seed=1)


def by_gates(model, saes, clean, corrupted, k, table, steps):
    """The mean derivative of the metric by the gate of each node of a table.

    All gates of all nodes are at the same share, which says nothing of activations, and
    the derivative is taken by the gates.
    """
    analysis = Analysis.of(
        model, saes, clean, corrupted, metric=METRIC, k=k, positions=None
    )
    runs = analysis.runs(with_gradients=False)
    ablation = "zero" if corrupted is None else "resample"
    sites = feature_sites(analysis, runs, ablation)
    runner = CircuitRunner.of(analysis, sites, Alignment.of("start", [5, 5]))
    rows = torch.arange(2)
    # Every row is a circuit of its own, so that a gate is that of one row. Nodes that
    # are everywhere, which come first, have none.
    keys = {}
    for name, space in runner.spaces.items():
        of_circuit = torch.arange(space.n_features + 1, space.size)
        keys[name] = torch.cat([of_circuit, of_circuit + space.size])
    gradients = {name: torch.zeros(len(of_site)) for name, of_site in keys.items()}
    for share, weight in gauss_points(steps):
        gates = {
            name: torch.full((len(of_site),), share, requires_grad=True)
            for name, of_site in keys.items()
        }
        weights = {
            name: SiteWeights(
                runner.spaces[name], of_site, gates[name], torch.zeros(2).bool()
            )
            for name, of_site in keys.items()
        }
        with torch.enable_grad():
            logits = runner.logits(weights, rows, rows, with_gradients=True)
            total = analysis.measurement.values(logits).sum()
        for name, gradient in zip(
            gates, torch.autograd.grad(total, list(gates.values())), strict=True
        ):
            gradients[name] += weight * gradient
    values = []
    for node in table.itertuples():
        space = runner.spaces[node.site]
        key = node.row * space.size + space.key(node.position + 1, node.feature)
        gradient = gradients[node.site][torch.searchsorted(keys[node.site], key)]
        values.append(gradient.item())
    return torch.tensor(values)


@pytest.mark.parametrize("has_corrupted", [True, False])
@pytest.mark.parametrize("k", [2, 8])
def test_an_effect_is_the_mean_derivative_by_the_gate_of_a_node(
    model, saes, has_corrupted, k
):
    clean, corrupted = pairs()
    corrupted = corrupted if has_corrupted else None
    options = {"metric": METRIC, "method": "joint", "steps": 3}
    table = effects(model, saes, clean, corrupted, **options).at(k)
    expected = by_gates(model, saes, clean, corrupted, k, table, steps=3)
    assert (torch.tensor(table.effect) - expected).abs().max() < 1e-5
    assert expected.abs().max() > 1e-2


def test_effects_of_all_sites_add_up_to_the_whole_change(model, saes):
    result = effects(
        model, saes, *pairs(), metric=METRIC, method="joint", steps=32, positions="all"
    )
    change = result.metric_clean - result.metric_corrupted
    assert change.abs().min() > 0.03
    total = torch.stack(list(result.totals().values())).sum(0)
    assert (total - change).abs().max() < 1e-4
    assert (result.completeness_gap[ALL_SITES] - (total - change)).abs().max() < 1e-5
    for k in (1, 3, 8):
        by_row = result.at(k).groupby("row").effect.sum()
        assert torch.tensor(by_row).numpy() == pytest.approx(total.numpy(), abs=1e-4)


def test_effects_at_a_smaller_k_are_those_of_a_computation_at_that_k(model, saes):
    options = {"metric": METRIC, "method": "joint", "steps": 3}
    whole = effects(model, saes, *pairs(), **options).at(3)
    alone = effects(model, saes, *pairs(), k=3, **options).at(3)
    columns = ["row", "site", "position", "feature"]
    both = whole.merge(alone, on=columns)
    assert len(both) == len(whole) == len(alone)
    assert (both.effect_x - both.effect_y).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["jumprelu", "topk"])
def test_codes_of_any_width_and_transcoders_are_complete(kind):
    model = tiny.hf_model("gpt2")
    options = {"hook_name": "blocks.1.hook_mlp_in", "hook_name_out": None}
    if kind == "topk":
        options["hook_name_out"] = "blocks.1.hook_mlp_out"
        options |= {"d_out": 32, "skip_connection": True}
    transcoder = tiny.sae_of_kind(kind, **options).float()
    other = tiny.sae(hook_name="blocks.0.hook_resid_post")
    result = effects(
        model,
        [other, transcoder],
        *pairs(),
        metric=METRIC,
        method="joint",
        steps=24,
    )
    (gap,) = result.completeness_gap.values()
    assert gap.abs().max() < 1e-3
    assert result.at(2).groupby("row").effect.sum().to_numpy() == pytest.approx(
        result.at(8).groupby("row").effect.sum().to_numpy(), abs=1e-4
    )


def test_coordinates_are_chosen_by_the_same_path(model, saes):
    analysis = Analysis.of(
        model, saes, *pairs(), metric=METRIC, k=None, positions="all"
    )
    runs = analysis.runs(with_gradients=False)
    nodes = {
        name: coordinate_nodes(
            place.site,
            runs.clean.activations[place.site],
            runs.corrupted.activations[place.site],
            analysis.masks[name],
            "resample",
        )
        for name, place in analysis.placed.items()
    }
    runner = CircuitRunner.of(analysis, nodes, Alignment.of("start", [5, 5]))
    of_sites = coordinate_effects(analysis, runs.clean, runner, "joint")
    total = sum(part.sum((1, 2)) for part in of_sites.values())
    change = runs.clean.values - runs.metric_corrupted
    assert (total - change).abs().max() < 0.1 * change.abs().max()


def test_a_circuit_by_these_effects_has_controls_by_these_effects(model, saes):
    result = effects(model, saes, *pairs(), metric=METRIC, method="joint")
    circuit = result.select(4, budget=6)
    assert circuit.method == "joint"
    table = circuit.faithfulness(
        model,
        *pairs(),
        metric=METRIC,
        controls=["coordinates", "splits"],
        other_saes=[saes],
        budgets=[6],
        n_draws=1,
    ).table()
    by_kind = table.set_index("nodes").faithfulness
    # The same SAEs, chosen on the same rows by the same effects.
    assert by_kind["other_saes[0]"] == pytest.approx(by_kind["circuit"])
