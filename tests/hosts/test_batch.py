"""A batch knows its text, and moves values between its columns and positions."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.hosts import TokenBatch, as_batch, by_position


@pytest.fixture
def batch():
    """Three rows: padded on the left, on the right, and not at all."""
    ids = torch.tensor([[0, 0, 2, 5], [2, 6, 7, 0], [2, 7, 8, 9]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    roles = {"user": torch.tensor([[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1]]).bool()}
    return TokenBatch(ids, mask, roles)


def test_right_padding_moves_text_to_the_beginning(batch):
    right = batch.right_padded()
    assert right.ids.tolist() == [[2, 5, 0, 0], [2, 6, 7, 0], [2, 7, 8, 9]]
    assert right.lengths.tolist() == batch.lengths.tolist() == [2, 3, 4]
    assert right.role("user").int().tolist() == [
        [0, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 1],
    ]
    assert right.right_padded() is right


def test_is_right_padded_if_every_text_begins_in_the_first_column(batch):
    assert [batch[row].is_right_padded for row in range(3)] == [False, True, True]
    assert not batch.is_right_padded
    assert batch.right_padded().is_right_padded


def test_columns_that_no_row_needs_are_left_out(batch):
    right = batch[:2].right_padded()
    assert right.shape == (2, 3)
    assert right.ids.tolist() == [[2, 5, 0], [2, 6, 7]]


@pytest.mark.parametrize("trailing", [(), (5,), (5, 2)])
def test_values_go_to_positions_and_come_back(batch, trailing):
    values = torch.randn(3, 4, *trailing)
    masked = values * batch.mask.view(3, 4, *[1] * len(trailing))
    positions = by_position(values, batch.mask)
    assert torch.equal(positions[0, :2], values[0, 2:])
    assert torch.equal(positions[1, :3], values[1, :3])
    assert not positions[0, 2:].any()
    assert torch.equal(batch.in_columns(positions), masked)


def test_rows_can_be_taken_and_repeated(batch):
    assert batch[1].ids.tolist() == [[2, 6, 7, 0]]
    assert batch[[2, 0]].lengths.tolist() == [4, 2]
    assert batch[1:].role("user").shape == (2, 4)
    twice = batch.repeated(2)
    assert twice.lengths.tolist() == [2, 3, 4, 2, 3, 4]
    assert twice.n_tokens == 18
    assert len(twice) == 6


def test_ids_alone_are_text(batch):
    assert as_batch(batch) is batch
    assert not as_batch(batch.ids).is_padded


def test_rejects_a_role_that_no_message_has(batch):
    with pytest.raises(sle.InvalidArgument, match="'tool'; its roles: user"):
        batch.role("tool")
    with pytest.raises(sle.InvalidArgument, match="not made from messages"):
        as_batch(batch.ids).role("user")


IDS = torch.tensor([[1, 2, 3]])
ONES = torch.ones(1, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("ids", "mask", "error", "message"),
    [
        (IDS.float(), ONES, sle.InvalidArgument, "ids must be integers"),
        (IDS, IDS, sle.InvalidArgument, "mask must be boolean"),
        ([[1]], ONES, sle.InvalidArgument, "ids must be a tensor .* type list"),
        (IDS, None, sle.InvalidArgument, "mask must be a tensor .* type NoneType"),
        (IDS[0], ONES, sle.ShapeMismatch, r"ids must be \[batch, pos\]"),
        (IDS[:, :0], ONES[:, :0], sle.ShapeMismatch, "at least one of each"),
        (IDS, ONES[:, :2], sle.ShapeMismatch, "mask must have the shape of ids"),
        (IDS, ~ONES, sle.InvalidArgument, "row 0 has no text"),
        (
            IDS,
            torch.tensor([[True, False, True]]),
            sle.InvalidArgument,
            "the text of row 0 is interrupted by padding",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_ids_and_masks_that_do_not_fit(ids, mask, error, message):
    with pytest.raises(error, match=message):
        TokenBatch(ids, mask)
