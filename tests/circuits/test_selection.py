"""Scores of nodes and rules for their number, against numbers worked out by hand."""

import pandas
import pytest

import sae_lens_ext as sle
from sae_lens_ext.circuits.alignment import Alignment
from sae_lens_ext.circuits.selection import checked_rows, n_chosen, ranked

LENGTHS = (2, 3)
NO_RULE = {"budget": None, "threshold": None, "cumulative": None}
EFFECTS = pandas.DataFrame(
    [
        (0, "a", 0, -1, -1, 1.0),
        (0, "a", 0, 4, 0, 2.0),
        (0, "a", 1, 4, 1, 6.0),
        (1, "a", 0, 4, 2, -5.0),
        (1, "a", 2, 7, 0, 8.0),
        (1, "b", 2, 4, 3, -2.0),
    ],
    columns=["row", "site", "position", "feature", "rank", "effect"],
)


def nodes(align, rows=(0, 1), errors="ranked"):
    alignment = Alignment.of(align, LENGTHS)
    table = ranked(EFFECTS, alignment, LENGTHS, rows=rows, errors=errors)
    return list(table.itertuples(index=False, name=None))


def test_scores_are_means_over_rows_of_sums_over_positions():
    assert nodes("all") == [
        ("a", "all", 7, 0, 4.0),
        ("a", "all", 4, 0, 1.5),
        ("b", "all", 4, 3, -1.0),
        ("a", "all", -1, -1, 0.5),
    ]


def test_positions_are_kept_apart_where_they_are_aligned():
    assert nodes("end") == [
        ("a", -1, 7, 0, 4.0),
        ("a", -1, 4, 1, 3.0),
        ("a", -3, 4, 2, -2.5),
        ("a", -2, 4, 0, 1.0),
        ("b", -1, 4, 3, -1.0),
        ("a", -2, -1, -1, 0.5),
    ]
    assert nodes({"last": -1}) == [
        ("a", "last", 7, 0, 4.0),
        ("a", "last", 4, 1, 3.0),
        ("b", "last", 4, 3, -1.0),
    ]


def test_errors_are_ranked_or_first_or_left_out():
    assert nodes("start", errors="all")[0] == ("a", "all", -1, -1, 0.5)
    assert nodes("start", errors="none") == nodes("start")[:-1]


def test_other_rows_do_not_count():
    assert nodes("all", rows=(1,)) == [
        ("a", "all", 7, 0, 8.0),
        ("a", "all", 4, 2, -5.0),
        ("b", "all", 4, 3, -2.0),
    ]
    assert checked_rows([1, 0, 1], 2) == (0, 1)
    for rows in ([], [2], [-1], 1, "01"):
        with pytest.raises(sle.InvalidArgument, match="rows must be"):
            checked_rows(rows, 2)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, 4),
        ({"budget": 3}, 3),
        ({"budget": 9}, 4),
        ({"threshold": 1.5}, 2),
        ({"cumulative": 0.5}, 1),
        ({"cumulative": 0.6}, 2),
        ({"cumulative": 1.0}, 4),
    ],
    ids=str,
)
def test_rules_count_nodes(rule, expected):
    scores = [-4.0, 2.0, 1.0, -1.0]
    assert n_chosen(scores, **{**NO_RULE, **rule}) == expected


def test_nodes_that_every_circuit_has_count_in_the_budget_alone():
    scores = [3.0, 1.0]
    assert n_chosen(scores, 2, **{**NO_RULE, "budget": 3}) == 3
    assert n_chosen(scores, 2, **{**NO_RULE, "threshold": 2.0}) == 3
    assert n_chosen(scores, 2, **{**NO_RULE, "cumulative": 0.75}) == 3
    assert n_chosen(scores, 2, **NO_RULE) == 4


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"budget": 1, "threshold": 1.0}, "got budget and threshold"),
        ({"budget": 0}, "budget must be a positive integer"),
        ({"threshold": float("nan")}, "threshold must be a positive number"),
        ({"threshold": 5.0}, "at least threshold=5; the largest is 4"),
        ({"cumulative": 1.5}, "cumulative must be"),
    ],
)
def test_rejects_invalid_rules(rule, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        n_chosen([-4.0, 2.0], **{**NO_RULE, **rule})
