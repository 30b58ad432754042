"""A window turns selections of the text into masks over the run in progress."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.interventions.positions import Window


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
    window = Window(batch=2, length=2, start=3)
    assert window.select(positions).tolist() == [expected, expected]


def test_rejects_a_mask_of_another_shape_when_the_run_comes(model, sae):
    message = r"the mask in positions is \[9\]; this run has \[2, 10\]"
    with (
        pytest.raises(sle.ShapeMismatch, match=message),
        sle.splice(model, sae, positions=torch.ones(9, dtype=torch.bool)),
    ):
        model(tiny.tokens())


def test_rejects_a_mask_over_another_number_of_rows():
    window = Window(batch=2, length=2)
    with pytest.raises(
        sle.ShapeMismatch, match="the mask in rows has 3 entries; this run has 2 rows"
    ):
        window.select(None, rows=(True, True, False))


def test_the_part_of_a_shorter_source_ends_in_zeros():
    window = Window(batch=2, length=3, start=1)
    source = torch.tensor([[5.0, 6.0, 7.0]])
    part = window.part_of(source, "the source", torch.zeros(()))
    assert part.tolist() == [[6.0, 7.0, 0.0], [6.0, 7.0, 0.0]]
