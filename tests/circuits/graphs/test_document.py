"""Graphs as JSON: exact both ways, and errors that name the field."""

import json

import graphs
import pytest

import sae_lens_ext as sle
from sae_lens_ext.circuits import Graph


def changed(**changes):
    """The document of a graph with some fields changed."""
    content = json.loads(graphs.graph().to_json())
    return json.dumps({**content, **changes})


def with_node(**changes):
    content = json.loads(graphs.graph().to_json())
    content["nodes"][2] |= changes
    return json.dumps(content)


def without(name, part=None):
    content = json.loads(graphs.graph().to_json())
    del (content if part is None else content[part][1])[name]
    return json.dumps(content)


def test_what_is_read_is_what_was_written():
    graph = graphs.graph(metric_corrupted=-0.1 - 0.2, row=3)
    text = graph.to_json()
    assert Graph.from_json(text) == graph
    assert Graph.from_json(text).to_json() == text
    content = json.loads(text)
    assert content["format"] == "sae-lens-ext circuit graph"
    assert content["version"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is JSON; this is not"),
        ("[" * 100_000, "is JSON; this is not"),
        ("[1]", "is a JSON object, .* this is a list"),
        ("{}", "has the format 'sae-lens-ext circuit graph'; this is None"),
        (changed(version=2), "reads version 1 of circuit graphs; got 2"),
        (changed(metric_clean=float("nan")), "finite numbers; this one has NaN"),
        (
            changed(metric_clean=1.5).replace("1.5", "1e999"),
            "metric_clean of the graph must be a finite number; got inf",
        ),
        (changed(row=-1), "row of the graph must be an integer of at least 0; got -1"),
        (changed(row=True), "row of the graph must be an integer of at least 0"),
        (changed(k=8), "k of the graph must be the k of every site"),
        (changed(nodes={}), "nodes of the graph must be a list of nodes"),
        (changed(nodes=[3]), r"nodes\[0\] must be an object; got a number"),
        (changed(tokens=["a", 2]), "tokens of the graph must be a list of texts"),
        (changed(colour="red"), "the graph has an unknown field 'colour'"),
        (without("sites"), "the graph has no field 'sites', a list of names"),
        (without("effect", "edges"), r"edges\[1\] has no field 'effect'"),
        (with_node(kind="neuron"), r"kind of nodes\[2\] must be one of token, feature"),
        (with_node(position="1"), r"position of nodes\[2\] must be an integer .* '1'"),
        (with_node(effect="x" * 99), r"effect of nodes\[2\] .* got 'xxx.*\.\.\."),
        (with_node(site="nowhere"), "nowhere/1/17 is not a node of this graph"),
        (with_node(position=9), "9/17 is not a node of this graph, .* 2 tokens"),
        (
            changed(edges=[{**vars(graphs.edge(4, 2, 1.0))}]),
            "edge 0 leads from node 4 to node 2; an edge leads to a later one of the 6",
        ),
        (
            changed(edges=[{**vars(graphs.edge(4, 6, 1.0))}]),
            "edge 0 leads from node 4 to node 6",
        ),
    ],
)
def test_a_document_that_is_not_a_graph_raises_with_the_field(text, message):
    with pytest.raises(sle.FormatError, match=message):
        Graph.from_json(text)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_what_is_not_text():
    with pytest.raises(sle.FormatError, match="is JSON; this is not"):
        Graph.from_json(3)


def test_a_node_is_there_once():
    content = json.loads(graphs.graph().to_json())
    content["nodes"][3] = content["nodes"][2]
    with pytest.raises(sle.FormatError, match="post/1/17 is there twice"):
        Graph.from_json(json.dumps(content))


def test_rejects_numbers_that_json_has_no_name_for():
    with pytest.raises(sle.InvalidArgument, match="NaN or infinite"):
        graphs.graph(metric_clean=float("inf")).to_json()
