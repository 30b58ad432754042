"""Selections of positions and rows are checked, frozen, and written as JSON."""

import json

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.interventions.positions import (
    checked_slice,
    frozen_positions,
    frozen_rows,
    positions_from_json,
    positions_to_json,
)
from sae_lens_ext.interventions.positions.selection import mask_along


@pytest.mark.parametrize(
    "positions",
    [3, "last", torch.tensor([1.5]), torch.ones(2, 2, 2, dtype=torch.bool), [], [0.5]],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_positions(model, sae, positions):
    with pytest.raises(
        sle.InvalidArgument,
        match="positions must be a slice, a list of integers, a boolean mask",
    ):
        sle.splice(model, sae, positions=positions)


@pytest.mark.parametrize(
    "bounds", [(0.5, None, None), (None, None, -1), (None, None, 0), ("a", None, None)]
)
def test_rejects_a_slice_that_does_not_go_forward_over_integers(bounds):
    with pytest.raises(
        sle.InvalidArgument,
        match="a slice of rows must have integer bounds and a positive step",
    ):
        checked_slice(slice(*bounds), "rows")


def test_a_mask_over_rows_has_one_axis():
    assert frozen_rows([True, False]) == (True, False)
    with pytest.raises(sle.InvalidArgument, match="rows must be a slice"):
        frozen_rows([[True], [False]])


@pytest.mark.parametrize(
    "positions",
    [None, slice(1, None, 2), [0, -1], [True, False], [[True], [False]]],
    ids=repr,
)
def test_a_frozen_selection_comes_back_from_json(positions):
    frozen = frozen_positions(positions)
    content = json.loads(json.dumps(positions_to_json(frozen)))
    assert frozen_positions(positions_from_json(content)) == frozen


def test_numbers_out_of_range_choose_nothing():
    assert mask_along((-1, 1, 7, -9), 3).tolist() == [False, True, True]
