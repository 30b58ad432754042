"""Slots of tokens, and the positions that nodes have in tables."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.circuits.alignment import Alignment

LENGTHS = (3, 2)


def test_rows_of_one_length_are_aligned_from_the_start_and_others_not_at_all():
    assert Alignment.of(None, (4, 4)).kind == "start"
    assert Alignment.of(None, LENGTHS).kind == "all"


@pytest.mark.parametrize(
    ("align", "labels"),
    [
        ("start", [[0, 1, 2], [0, 1, 2]]),
        ("end", [[-3, -2, -1], [-2, -1, "all"]]),
        ("all", [["all"] * 3, ["all"] * 3]),
        ({"first": 0, "last": -1}, [["first", None, "last"], ["first", "last", None]]),
        ({"verb": [2, 0]}, [[None, None, "verb"], ["verb", None, None]]),
    ],
    ids=str,
)
def test_a_token_has_the_position_of_its_alignment(align, labels):
    alignment = Alignment.of(align, LENGTHS)
    slots = alignment.slots(LENGTHS)
    seen = [[alignment.label_of(slot) for slot in row] for row in slots.tolist()]
    assert seen == labels
    has_nodes = [[label is not None for label in row] for row in labels]
    assert alignment.has_nodes(slots).tolist() == has_nodes
    for row, of_row in zip(slots.tolist(), labels, strict=True):
        for slot, label in zip(row, of_row, strict=True):
            assert label is None or alignment.slot_of(label) == slot


@pytest.mark.parametrize(
    ("align", "message"),
    [
        ("middle", "align must be 'start', 'end', 'all', or positions by name"),
        (3, "align must be 'start', 'end', 'all', or positions by name"),
        ({}, "align must name at least one position"),
        ({"all": 1}, "a name in align must be a string other than 'all'; got 'all'"),
        ({0: 1}, "a name in align must be a string other than 'all'; got 0"),
        ({"verb": [1.5]}, r"align\['verb'\] must be a list of integers"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_alignments(align, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        Alignment.of(align, LENGTHS)


@pytest.mark.parametrize(
    ("align", "error", "message"),
    [
        ({"verb": 2}, sle.InvalidArgument, "not in row 1 of 2 tokens"),
        (
            {"a": 0, "b": [1, -2]},
            sle.InvalidArgument,
            "names position 0 of row 1 twice",
        ),
        ({"verb": [1, 1, 1]}, sle.ShapeMismatch, "has 3 positions of 'verb'"),
    ],
)
def test_names_must_fit_the_rows(align, error, message):
    with pytest.raises(error, match=message):
        Alignment.of(align, LENGTHS).slots(LENGTHS)


@pytest.mark.parametrize(
    ("align", "position"),
    [("start", -1), ("end", 0), ("all", 3), ({"verb": 1}, "noun"), ("start", "verb")],
)
def test_positions_of_another_alignment_raise(align, position):
    with pytest.raises(sle.InvalidArgument, match="the position of a node must be"):
        Alignment.of(align, LENGTHS).slot_of(position)
