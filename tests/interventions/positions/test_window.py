"""A window turns selections of the text into masks over the run in progress."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.hosts import TokenBatch
from sae_lens_ext.interventions.positions import Window


@pytest.fixture
def padded():
    """Two rows: two tokens behind two columns of padding, and four tokens."""
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    return Window.of_batch(TokenBatch(torch.full((2, 4), 5), mask))


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (slice(4, None), [False, True]),
        (slice(None, 4), [True, False]),
        ((3,), [True, False]),
        ((-1,), [False, True]),
        # A mask covers the text the run began with; later tokens are outside of it.
        ((True, True, True), [False, False]),
        ((True, True, True, True), [True, False]),
    ],
)
def test_positions_count_from_the_beginning_of_the_text(positions, expected):
    window = Window.counted(batch=2, length=2, start=3)
    assert window.select(positions).tolist() == [expected, expected]


@pytest.mark.parametrize(
    "positions",
    [
        slice(None),
        slice(1, None),
        slice(None, -1),
        slice(-3, None),
        slice(-2, -1),
        slice(0, 9, 2),
        slice(1, None, 3),
        (0,),
        (-1,),
        (1, -2),
        (7, -9),
    ],
    ids=str,
)
def test_every_row_has_positions_of_its_own(padded, positions):
    for row, text in enumerate(([2, 3], [0, 1, 2, 3])):
        if isinstance(positions, slice):
            columns = text[positions]
        else:
            reached = [p for p in positions if -len(text) <= p < len(text)]
            columns = [text[position] for position in reached]
        mask = padded.select(positions)[row]
        assert mask.nonzero().flatten().tolist() == sorted(set(columns))


def test_a_boolean_mask_is_over_columns_and_never_chooses_padding(padded):
    chosen = padded.select((True, False, True, False))
    assert chosen.tolist() == [[False, False, True, False], [True, False, True, False]]


def test_values_by_position_come_to_the_columns_of_those_positions(padded):
    table = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    by_row = padded.values_at(table, "k")
    assert by_row[0, 2:].tolist() == [1, 2]
    assert by_row[1].tolist() == [5, 6, 7, 8]
    for_all = padded.values_at(table[0], "k")
    assert for_all[0, 2:].tolist() == [1, 2]
    assert for_all[1].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3)])
def test_rejects_values_that_do_not_cover_the_texts(padded, shape):
    with pytest.raises(sle.ShapeMismatch, match=r"k is .*; this run reaches \[2, 4\]"):
        padded.values_at(torch.ones(shape), "k")


def test_rejects_a_mask_of_another_shape_when_the_run_comes(model, sae):
    message = r"the mask in positions is \[9\]; this run has \[2, 10\]"
    with (
        pytest.raises(sle.ShapeMismatch, match=message),
        sle.splice(model, sae, positions=torch.ones(9, dtype=torch.bool)),
    ):
        model(tiny.tokens())


def test_rejects_a_mask_over_another_number_of_rows():
    window = Window.counted(batch=2, length=2)
    with pytest.raises(
        sle.ShapeMismatch, match="the mask in rows has 3 entries; this run has 2 rows"
    ):
        window.select(None, rows=(True, True, False))


def test_the_part_of_a_shorter_source_ends_in_zeros():
    window = Window.counted(batch=2, length=3, start=1)
    source = torch.tensor([[5.0, 6.0, 7.0]])
    part = window.part_of(source, "the source", torch.zeros(()))
    assert part.tolist() == [[6.0, 7.0, 0.0], [6.0, 7.0, 0.0]]


def test_the_part_of_a_source_is_by_position_of_each_row(padded):
    source = torch.tensor([[5.0, 6.0, 7.0], [1.0, 2.0, 3.0]])
    part = padded.part_of(source, "the source", torch.zeros(()))
    assert part.tolist() == [[0.0, 0.0, 5.0, 6.0], [1.0, 2.0, 3.0, 0.0]]
