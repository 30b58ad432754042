"""Edits become JSON text and come back equal."""

import pytest
import torch

import sae_lens_ext as sle

SITE = "blocks.1.hook_resid_post"
RUN = sle.Run(
    {
        SITE: sle.SparseCode(
            torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[5, 3]]]), d_sae=9
        )
    }
)
EDITS = [
    sle.Ablate(3),
    sle.Ablate([3, 4], to="mean", positions=slice(1, None)),
    sle.Ablate([3, 4], to=[1.0, 2.0], rows=[0, 2]),
    sle.Steer(981, by=6.0),
    sle.Clamp((1, 2), to=0.5, positions=[[True, False], [False, True]]),
    sle.Scale(range(3), by=torch.tensor([1.0, 2.0, 3.0])),
    sle.AddDirection(torch.arange(20.0), scale=2),
    sle.Patch([3], source=RUN),
]


@pytest.mark.parametrize("edit", EDITS, ids=repr)
def test_an_edit_is_a_value(edit):
    (copied,) = sle.edits_from_json(sle.edits_to_json([edit]))
    assert copied == edit
    assert repr(copied) == repr(edit)
    assert edit != sle.Ablate(77)
    with pytest.raises(AttributeError):
        edit.positions = slice(3)


def test_edits_by_site_are_json_too():
    by_site = {SITE: [sle.Ablate(3)], "blocks.2.hook_mlp_out": []}
    assert sle.edits_from_json(sle.edits_to_json(by_site)) == by_site


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_edits_that_are_not_a_list():
    with pytest.raises(sle.InvalidArgument, match="edits are a list of edits such as"):
        sle.edits_to_json(sle.Ablate(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "edits must be JSON text"),
        ("3", "edits are written as a list, or as lists by site; this is '3'"),
        (
            '[{"edit": "Delete"}]',
            "an edit is an object whose 'edit' is one of Ablate, Steer, Clamp, Scale, "
            "Patch, AddDirection",
        ),
        ('[{"edit": "Steer", "features": [1]}]', "Steer has invalid options"),
        (
            '[{"edit": "Patch", "features": [1], "source": {"run": {"a": {}}}}]',
            "a run is written as d_sae, indices, values and kept by site",
        ),
        (
            '[{"edit": ["Ablate"], "features": [1]}]',
            "an edit is an object whose 'edit' is one of Ablate",
        ),
    ],
)
def test_rejects_text_that_holds_no_edits(text, message):
    with pytest.raises(sle.FormatError, match=message):
        sle.edits_from_json(text)
