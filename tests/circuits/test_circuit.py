"""Circuits as values: made by a rule, by hand, or read from a file."""

import pandas
import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.circuits import Circuit, logit_difference

METRIC = logit_difference(7, 9)
FIRST, SECOND = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def effects():
    saes = {FIRST: tiny.sae(k=4), SECOND: tiny.sae(k=6)}
    return sle.circuits.effects(
        tiny.hf_model("gpt2"), saes, tiny.tokens(2, 5), metric=METRIC
    )


def test_a_circuit_says_what_it_is(effects):
    circuit = effects.select(2, budget=7)
    assert len(circuit) == 7
    assert circuit.k == 2
    assert repr(circuit).startswith("Circuit(7 nodes at k=2, at blocks.")
    columns = ["site", "position", "feature", "score"]
    assert circuit.table().columns.tolist() == columns
    assert circuit.nodes.score.abs().is_monotonic_decreasing
    assert effects.select({FIRST: 2, SECOND: 5}).k == {FIRST: 2, SECOND: 5}


def test_there_may_be_no_node_to_choose():
    dead = tiny.sae()
    torch.nn.init.constant_(dead.W_enc, 0)
    torch.nn.init.constant_(dead.b_enc, -1)
    model = tiny.hf_model("gpt2")
    effects = sle.circuits.effects(model, dead, tiny.tokens(1, 3), metric=METRIC)
    assert len(effects.select(4).nodes) == 3
    with pytest.raises(sle.InvalidArgument, match="no node to choose.*k=4; errors="):
        effects.select(4, errors="none")


def test_the_score_is_the_mean_effect(effects):
    circuit = effects.select(3)
    sums = effects.at(3).groupby(["site", "position", "feature"]).effect.sum()
    assert len(circuit) == len(sums)
    for node in circuit.nodes.itertuples():
        expected = sums[node.site, node.position, node.feature] / 2
        assert node.score == pytest.approx(expected, abs=1e-6)


def test_measured_effects_are_selected_alike():
    effects = sle.circuits.effects(
        tiny.hf_model("gpt2"),
        tiny.sae(),
        tiny.tokens(2, 5),
        metric=METRIC,
        method="ablation",
        k=4,
        budget=12,
    )
    circuit = effects.select(budget=3, align="all")
    assert circuit.k == 4
    assert circuit.method == "ablation"
    sums = effects.at().groupby("feature").effect.sum() / 2
    largest = sums.abs().nlargest(3)
    assert circuit.nodes.feature.tolist() == largest.index.tolist()


def test_every_active_feature_stays_every_active_feature():
    sae = tiny.sae_of_kind("relu", hook_name=FIRST).float()
    effects = sle.circuits.effects(
        tiny.hf_model("gpt2"), sae, tiny.tokens(2, 5), metric=METRIC
    )
    assert effects.select(budget=3).k is None
    assert effects.select(3, budget=3).k == 3


def test_a_circuit_can_be_written_and_read(effects, tmp_path):
    for align in ("start", "end", "all"):
        circuit = effects.select(2, budget=7, align=align, errors="all")
        path = tmp_path / f"{align}.csv"
        circuit.nodes.to_csv(path, index=False)
        saes = {FIRST: tiny.sae(k=4), SECOND: tiny.sae(k=6)}
        again = Circuit.of(pandas.read_csv(path), saes, 2)
        assert again.jaccard(circuit) == 1
        assert again.nodes.feature.tolist() == circuit.nodes.feature.tolist()
        assert again.alignment.kind == align
        assert again.ks == circuit.ks


def test_circuits_have_nodes_in_common(effects):
    circuit = effects.select(2, budget=8)
    assert circuit.jaccard(circuit.first(2)) == 0.25
    rest = Circuit.of(circuit.nodes.tail(6), circuit.saes, 2)
    assert circuit.first(2).jaccard(rest) == 0
    assert circuit.first(4).jaccard(rest) == 0.25
    with pytest.raises(sle.InvalidArgument, match="n_nodes must be"):
        circuit.first(9)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({"site": [SECOND]}, "columns site, feature"),
        ({"site": [], "feature": []}, "at least one node"),
        ({"site": ["blocks.9.hook_out"], "feature": [1]}, "there are SAEs at"),
        ({"site": [SECOND], "feature": [1.5]}, "feature must hold integers.* got 1.5"),
        ({"site": [SECOND], "feature": [48]}, "feature 48 .* has features 0 to 47"),
        ({"site": [SECOND] * 2, "feature": [1, 1]}, "every node once"),
        (
            {"site": [SECOND], "position": ["verb"], "feature": [1]},
            "position of a node must be 'all'; got 'verb'",
        ),
    ],
)
def test_rejects_invalid_nodes(nodes, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        Circuit.of(pandas.DataFrame(nodes), tiny.sae(), 2)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_what_is_not_a_circuit(effects):
    with pytest.raises(sle.InvalidArgument, match="other must be a circuit.*type int"):
        effects.select(2, budget=8).jaccard(3)
    with pytest.raises(sle.InvalidArgument, match="align='start' and align='end'; sel"):
        effects.select(2, budget=8).jaccard(effects.select(2, budget=8, align="end"))
    nodes = pandas.DataFrame({"site": [SECOND], "feature": [1]})
    with pytest.raises(sle.InvalidArgument, match="sae must be an SAE, a list of SAEs"):
        Circuit.of(nodes, "sae")


def test_an_sae_must_say_where_it_belongs():
    nodes = pandas.DataFrame({"site": [SECOND], "feature": [1]})
    with pytest.raises(sle.UnknownSite, match="does not say where it belongs"):
        Circuit.of(nodes, tiny.sae(hook_name=None), 2)


def test_an_sae_must_serve_the_k():
    nodes = pandas.DataFrame({"site": [SECOND], "feature": [1]})
    with pytest.raises(sle.InvalidK, match="k=9 is above k=8"):
        Circuit.of(nodes, tiny.sae(), 9)
    assert Circuit.of(nodes, tiny.sae(), 9, extrapolate=True).k == 9
