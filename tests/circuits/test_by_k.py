"""Circuits at several k, and what they have in common by chance."""

import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.circuits import circuit_by_k, logit_difference

METRIC = logit_difference(7, 9)
KS = [8, 2, 4]
NODE = ["site", "position", "feature"]


@pytest.fixture(scope="module")
def effects():
    return sle.circuits.effects(
        tiny.hf_model("gpt2"), tiny.sae(), tiny.tokens(2, 5), metric=METRIC
    )


@pytest.fixture(scope="module")
def result(effects):
    return circuit_by_k(effects, KS, budget=10, n_random=50)


def test_circuits_are_those_of_select(effects, result):
    assert list(result.circuits) == [2, 4, 8]
    for k, circuit in result.circuits.items():
        assert circuit.nodes.equals(effects.select(k, budget=10).nodes)
    assert repr(result) == "CircuitByK(2: 10 nodes, 4: 10 nodes, 8: 10 nodes)"


def test_the_table_says_which_nodes_live_at_which_k(effects, result):
    table = result.table()
    births = effects.at(8).groupby(NODE)["rank"].min()
    seen = {
        k: set(c.nodes[NODE].itertuples(index=False, name=None))
        for k, c in result.circuits.items()
    }
    assert len(table) == len(set.union(*seen.values()))
    for node in table.itertuples():
        key = (node.site, node.position, node.feature)
        ks = [k for k in (2, 4, 8) if key in seen[k]]
        assert (node.first_k, node.last_k, node.n_ks) == (ks[0], ks[-1], len(ks))
        assert node.rank == births[key]
        possible = [k for k in (2, 4, 8) if k > node.rank]
        assert node.survival == len(ks) / len(possible)


def test_overlap_stands_next_to_that_of_random_circuits(result):
    overlap = result.overlap()
    assert overlap[["k", "other_k"]].values.tolist() == [[2, 4], [2, 8], [4, 8]]
    for row in overlap.itertuples():
        first, second = result.circuits[row.k], result.circuits[row.other_k]
        assert row.jaccard == first.jaccard(second)
        assert row.null_low <= row.null <= row.null_high
        assert 0 < row.p <= 1
    assert result.overlap().equals(overlap)


def test_circuits_of_all_nodes_share_no_more_than_random_ones(effects):
    overlap = circuit_by_k(effects, [2, 4], n_random=5).overlap()
    assert overlap.jaccard.tolist() == pytest.approx(overlap.null.tolist())
    assert overlap.p.tolist() == [1]


@pytest.mark.parametrize("ks", [[4], [4, 4], 4, [2, 4.5], []])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_ks(effects, ks):
    with pytest.raises(sle.InvalidK, match="ks must be at least two values of k"):
        circuit_by_k(effects, ks)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_effects_at_one_k(effects):
    with pytest.raises(sle.InvalidArgument, match="effects at every k"):
        circuit_by_k(effects.at(4), [2, 4])
    with pytest.raises(sle.InvalidK, match="k from 1 to 8; got 9"):
        circuit_by_k(effects, [2, 9])
