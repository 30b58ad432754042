"""Tables of nodes, against numbers worked out by hand."""

from dataclasses import replace

import numpy
import pytest
import torch

from sae_lens_ext.circuits.nodes import SiteEffects
from sae_lens_ext.circuits.table import SiteTable, joined
from sae_lens_ext.sae import SparseCode


def code(values, indices):
    return SparseCode(
        torch.tensor([[values, values]]), torch.tensor([[indices, indices]]), d_sae=9
    )


@pytest.fixture
def effects():
    """One row of two positions, of which the second is looked at."""
    return SiteEffects(
        mask=torch.tensor([[False, True]]),
        # The third feature is not active.
        code=code([3.0, 2.0, 0.0], [4, 7, 1]),
        features=torch.tensor([[[0.0, 0.0, 0.0], [30.0, -2.0, 0.0]]]),
        totals=torch.tensor([[0.0, 100.0]]),
    )


@pytest.fixture
def pair(effects):
    """The same with a corrupted run, in which feature 7 is first and 5 second."""
    return replace(
        effects,
        corrupted_code=code([5.0, 1.0, 0.0], [7, 5, 0]),
        corrupted_features=torch.tensor([[[0.0, 0.0, 0.0], [7.0, -0.5, 0.0]]]),
    )


def nodes(table, k):
    columns = table.at(k)
    return list(
        zip(
            columns["feature"].tolist(),
            columns["rank"].tolist(),
            columns["effect"].tolist(),
            strict=True,
        )
    )


def test_effects_are_those_of_the_ranks_below_k_and_the_rest_is_the_error(effects):
    table = SiteTable.of(effects)
    assert nodes(table, 1) == [(-1, -1, 70.0), (4, 0, 30.0)]
    assert nodes(table, 2) == [(-1, -1, 72.0), (4, 0, 30.0), (7, 1, -2.0)]
    assert table.at(2)["position"].tolist() == [1, 1, 1]


def test_a_k_above_the_largest_has_the_same_nodes(effects):
    table = SiteTable.of(effects)
    assert nodes(table, 8) == nodes(table, 3) == nodes(table, 2)


def test_each_run_of_a_pair_counts_from_its_own_rank_on(pair):
    table = SiteTable.of(pair)
    # Feature 7 is in the corrupted code only, where it is first.
    assert nodes(table, 1) == [(-1, -1, 63.0), (4, 0, 30.0), (7, 0, 7.0)]
    assert nodes(table, 2) == [
        (-1, -1, 65.5),
        (4, 0, 30.0),
        (7, 0, 5.0),
        (5, 1, -0.5),
    ]


def test_effects_of_a_token_add_up_to_its_total_at_every_k(pair):
    table = SiteTable.of(pair)
    for k in (1, 2, 3):
        assert table.at(k)["effect"].sum() == 100


def test_sites_are_joined_by_row(effects):
    mask = torch.tensor([[False, True], [True, False]])
    two_rows = replace(
        effects,
        mask=mask,
        code=effects.code[[0, 0]],
        features=effects.features[[0, 0]],
        totals=effects.totals[[0, 0]],
    )
    table = SiteTable.of(two_rows)
    columns = joined({"b": table, "a": table}, {"b": 1, "a": 2})
    rows_and_sites = list(zip(columns["row"], columns["site"], strict=True))
    expected = [(0, 0)] * 2 + [(0, 1)] * 3
    # In the second row the position that is looked at has no effect of a feature.
    assert rows_and_sites[:5] == expected
    assert {row for row, _ in rows_and_sites[5:]} == {1}
    assert isinstance(columns["effect"], numpy.ndarray)
