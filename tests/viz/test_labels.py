"""Labels are texts by feature number, or an error says so."""

import numpy
import pytest

import sae_lens_ext as sle
from sae_lens_ext.viz.labels import checked_labels


def test_numbers_of_any_kind_become_features():
    assert checked_labels({numpy.int64(5): "x", 7: "", 8: None}) == {
        5: "x",
        7: "",
    }


@pytest.mark.parametrize("labels", [{"5": "x"}, {5: 6}, {True: "x"}, ["x"], "x"])
def test_rejects_invalid_labels(labels):
    with pytest.raises(sle.InvalidArgument, match="labels must be texts by feature"):
        checked_labels(labels)
