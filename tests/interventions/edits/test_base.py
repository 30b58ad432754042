"""Edits act where they are asked to, and print as they are typed."""

import pytest
import tiny
import torch

import sae_lens_ext as sle


@pytest.mark.parametrize(
    "where",
    [
        {"positions": slice(2, 5)},
        {"positions": [-1, 3]},
        {"positions": [3, 9]},
        {"positions": torch.arange(10) > 6},
        {"rows": [1], "positions": slice(None, None, 3)},
        {"rows": slice(1, None)},
        {"positions": [[True] * 10, [False] * 10]},
    ],
)
def test_acts_at_the_chosen_rows_and_positions(change_by_edits, sae, where):
    rows = where.get("rows", slice(None))
    positions = where.get("positions", slice(None))
    if isinstance(positions, list) and isinstance(positions[0], list):
        mask = torch.tensor(positions)
    else:
        is_chosen_row = torch.zeros(2, dtype=torch.bool)
        is_chosen_row[rows] = True
        is_chosen = torch.zeros(10, dtype=torch.bool)
        is_chosen[positions] = True
        mask = is_chosen_row[:, None] & is_chosen

    change, _ = change_by_edits(sae, [sle.Steer(7, by=1.0, **where)], tiny.tokens())
    expected = mask[..., None] * sae.W_dec[7]
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)
    assert not change[~mask].any(), "to the bit"


def test_keeps_to_the_positions_of_the_splice(change_by_edits):
    sae = tiny.sae(exclude_special_tokens=True)
    edits = [sle.Steer(7, by=1.0), sle.AddDirection(torch.ones(32))]
    change, _ = change_by_edits(sae, edits, tiny.tokens())
    assert not change[:, 0].any()
    expected = (sae.W_dec[7] + 1).expand(2, 9, 32)
    torch.testing.assert_close(change[:, 1:], expected, rtol=1e-4, atol=1e-5)


def test_rejects_a_row_that_the_run_does_not_have(change_by_edits, sae):
    with pytest.raises(
        sle.ShapeMismatch, match="rows names row 2; this run has 2, from 0 on"
    ):
        change_by_edits(sae, [sle.Ablate(3, rows=[2])], tiny.tokens())


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (sle.Ablate([17, 403]), "Ablate(features=[17, 403])"),
        (
            sle.Steer(981, by=6, positions=slice(4, None)),
            "Steer(features=981, by=6.0, positions=slice(4, None, None))",
        ),
        (
            sle.Steer(5, by=2, positions=[2]),
            "Steer(features=5, by=2.0, positions=[2])",
        ),
        (sle.AddDirection(torch.zeros(640)), "AddDirection(vector=<640 numbers>)"),
    ],
)
def test_prints_as_it_is_typed(edit, expected):
    assert repr(edit) == expected


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sle.Ablate(-1),
            "features must be one or more non-negative integers, or a boolean mask "
            "over all features; got -1",
        ),
        (
            lambda: sle.Ablate([]),
            "integers, or a boolean mask over all features; got",
        ),
        (
            lambda: sle.Ablate(2.0),
            "features must be one or more non-negative integers",
        ),
        (
            lambda: sle.Ablate("17"),
            "features must be one or more non-negative integers",
        ),
        (lambda: sle.Ablate([3, 3]), "features must not repeat a feature; got"),
        (
            lambda: sle.Ablate(3, positions=3),
            "positions must be a slice, a list of integers, a boolean mask",
        ),
        (
            lambda: sle.Ablate(3, rows="first"),
            "rows must be a slice, a list of integers, a boolean mask, 'all' or None; "
            "got 'first'",
        ),
    ],
)
def test_rejects_invalid_features_positions_and_rows(make, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        make()


@pytest.mark.usefixtures("without_shape_checks")
def test_arrays_and_masks_are_the_same_as_lists():
    np = pytest.importorskip("numpy")
    from_arrays = sle.Ablate(np.array([1, 2]), to=np.array([1.0, 2.0]))
    assert from_arrays == sle.Ablate([1, 2], to=[1.0, 2.0])
    assert sle.Steer(np.int64(1), by=np.float32(3)) == sle.Steer(1, by=3.0)
    from_tensors = sle.AddDirection(np.ones(3), scale=torch.tensor(2.0))
    assert from_tensors == sle.AddDirection([1.0, 1.0, 1.0], scale=2.0)
    assert sle.Ablate(torch.tensor([True, False, True])) == sle.Ablate([0, 2])
