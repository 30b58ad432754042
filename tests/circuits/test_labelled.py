"""Labels stand beside the features of every table of nodes or edges."""

import pandas
import pytest

import sae_lens_ext as sle

FIRST = "blocks.0.hook_resid_post"
SECOND = "blocks.1.hook_resid_post"


def nodes():
    return pandas.DataFrame(
        {
            "site": [FIRST, SECOND, SECOND],
            "feature": [17, 17, -1],
            "effect": [1.0, 2.0, 3.0],
        },
        index=[5, 6, 9],
    )


def test_nodes_have_the_labels_of_their_site():
    table = sle.circuits.labelled(nodes(), {SECOND: {17: "capitals", 4: "verbs"}})
    assert list(table.columns) == ["site", "feature", "label", "effect"]
    assert list(table["label"]) == [None, "capitals", None]
    assert table.drop(columns="label").equals(nodes())
    # Labels of another call take the place of these.
    again = sle.circuits.labelled(table, {(FIRST, 17): "rivers"})
    assert list(again["label"]) == ["rivers", None, None]


def test_edges_have_labels_at_both_ends():
    edges = pandas.DataFrame(
        {
            "source_site": ["tokens", FIRST],
            "source_feature": [-1, 17],
            "target_site": [FIRST, "metric"],
            "target_feature": [17, -1],
        }
    )
    # The only site with features.
    table = sle.circuits.labelled(edges, {17: "capitals"})
    assert list(table["source_label"]) == [None, "capitals"]
    assert list(table["target_label"]) == ["capitals", None]


def test_a_table_without_features_has_no_labels():
    table = sle.circuits.labelled(nodes().head(0), {17: "capitals"})
    assert list(table.columns) == ["site", "feature", "label", "effect"]


@pytest.mark.parametrize(
    ("table", "labels", "message"),
    [
        (nodes(), {17: "capitals"}, "with several sites, labels must say where"),
        (nodes(), {"elsewhere": {17: "x"}}, "labels are of elsewhere"),
        (nodes().drop(columns="site"), {17: "x"}, "columns site and feature"),
        ("table", {17: "x"}, "columns site and feature.*got str"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_other_tables_and_labels(table, labels, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        sle.circuits.labelled(table, labels)
