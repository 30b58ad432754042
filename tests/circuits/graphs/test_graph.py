"""Labels, and the graph for networkx."""

import io
import sys

import graphs
import networkx
import pytest

import sae_lens_ext as sle


def test_labels_belong_to_features():
    labels = {(graphs.FIRST, 17): "capitals", (graphs.SECOND, 99): "none of it"}
    labelled = graphs.graph().labelled(labels)
    expected = [None, None, "capitals", None, None, None]
    assert [node.label for node in labelled.nodes] == expected
    assert labelled.labelled({}) == labelled


@pytest.mark.parametrize(
    "labels", [{graphs.FIRST: {17: "capitals"}}, {(graphs.FIRST, 17): "capitals"}]
)
def test_labels_may_be_by_site_or_by_pair(labels):
    assert graphs.graph().labelled(labels).nodes[2].label == "capitals"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({17: "capitals"}, "with several sites, labels must say where"),
        ({("a", 1): "capitals"}, "labels are of a, and there are features at"),
        ({(graphs.FIRST, 1): 2}, "labels must be texts by feature number"),
        (["capitals"], "labels must be texts by feature number"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_labels(labels, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        graphs.graph().labelled(labels)


def test_networkx_has_every_node_and_edge():
    graph = graphs.graph()
    exported = graph.to_networkx()
    name = f"{graphs.FIRST}/1/17"
    assert exported.number_of_nodes() == 6
    assert exported.nodes[name]["activation"] == 2.5
    assert "label" not in exported.nodes[name]
    assert exported.edges["tokens/1/token", name] == {
        "effect": -1.1,
        "preactivation": -7.7,
    }
    assert exported.graph["metric_clean"] == 1.5
    assert networkx.is_directed_acyclic_graph(exported)


def test_networkx_can_write_it():
    file = io.BytesIO()
    networkx.write_graphml(graphs.graph().to_networkx(), file)
    file.seek(0)
    assert networkx.read_graphml(file).number_of_edges() == 6


def test_without_networkx_the_error_has_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(sle.MissingDependency, match=r"sae-lens-ext\[graph\]"):
        graphs.graph().to_networkx()
