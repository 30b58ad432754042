"""Labels are texts by feature number, or an error says so."""

import numpy
import pytest

import sae_lens_ext as sle
from sae_lens_ext._labels import feature_labels, labels_by_site


def test_numbers_of_any_kind_become_features():
    assert feature_labels({numpy.int64(5): "x", 7: "", 8: None}) == {
        5: "x",
        7: "",
    }


@pytest.mark.parametrize(
    "labels", [{"5": "x"}, {5: 6}, {-1: "x"}, {True: "x"}, ["x"], "x"]
)
def test_rejects_invalid_labels(labels):
    with pytest.raises(sle.InvalidArgument, match="labels must be texts by feature"):
        feature_labels(labels)


@pytest.mark.parametrize(
    "labels",
    [
        {"a": {5: "x", 7: None}, "elsewhere": {5: "y"}},
        {("a", 5): "x", ("a", 7): None, ("elsewhere", 5): "y"},
    ],
)
def test_labels_of_several_sites_keep_their_sites(labels):
    assert labels_by_site(labels, ["a", "b"]) == {"a": {5: "x"}}


def test_labels_by_feature_are_of_the_only_site():
    assert labels_by_site({5: "x"}, ["a"]) == {"a": {5: "x"}}
    assert labels_by_site({}, ["a"]) == labels_by_site(None, ["a", "b"]) == {}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({5: "x"}, "with several sites, labels must say where"),
        ({"c": {5: "x"}}, "labels are of c, and there are features at: a, b"),
        ({"a": {5: 6}}, "labels must be texts by feature number"),
        ({"a": "x"}, "labels must be texts by feature number"),
        ("x", "labels must be texts by feature number"),
    ],
)
def test_rejects_labels_that_fit_no_site(labels, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        labels_by_site(labels, ["a", "b"])
