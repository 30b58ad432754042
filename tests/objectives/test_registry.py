"""Objectives by name, with their fields as options."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.objectives import (
    OBJECTIVES,
    HierarchicalTopK,
    Objective,
    objective_named,
)
from sae_lens_ext.objectives.registry import option_names


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_name_is_an_objective_with_defaults(name):
    objective = objective_named(name)
    assert isinstance(objective, Objective)
    assert type(objective).__name__.lower().startswith(name)
    options = {option: getattr(objective, option) for option in option_names(name)}
    assert objective_named(name, **options) == objective


def test_options_are_fields():
    objective = objective_named("hierarchical", stride=2, weights="ramp")
    assert objective == HierarchicalTopK(stride=2, weights="ramp")


def test_rejects_unknown_names_and_options():
    with pytest.raises(sle.InvalidArgument, match="one of hierarchical, topk,.*'top'"):
        objective_named("top")
    with pytest.raises(sle.InvalidArgument, match="no option 'weigths'; .*: weights"):
        objective_named("hierarchical", weigths="ramp")
    with pytest.raises(sle.InvalidArgument, match="no option '_errors'"):
        objective_named("hierarchical", _errors=1)
