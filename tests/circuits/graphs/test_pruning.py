"""Pruning keeps what the definition by matrices keeps."""

import graphs
import numpy
import pytest

import sae_lens_ext as sle


def random_graph(n_nodes=30, seed=3):
    """Tokens, features and errors at one site each, and edges between most of them."""
    generator = numpy.random.default_rng(seed)
    nodes = [graphs.node("token", "tokens", position) for position in range(2)]
    for feature in range(n_nodes):
        nodes.append(graphs.node("feature", "a", 1, feature=feature, is_target=True))
    nodes += [
        graphs.node("error", "a", 1),
        graphs.node("feature", "b", 1, feature=1, is_target=True),
        graphs.node("metric", "metric", 1, is_target=True),
    ]
    edges = [
        graphs.edge(source, target, float(generator.standard_normal() ** 3))
        for target in range(2, len(nodes))
        for source in range(target)
        if generator.random() < 0.4
    ]
    return graphs.graph(nodes=tuple(nodes), edges=tuple(edges), sites=("a", "b"))


def matrix(graph):
    """Sizes of edges as [target, source], the rows of which add up to 1."""
    sizes = numpy.zeros((len(graph.nodes), len(graph.nodes)))
    for edge in graph.edges:
        sizes[edge.target, edge.source] = abs(edge.effect)
    return sizes / numpy.maximum(sizes.sum(1, keepdims=True), 1e-300)


def influence_of(shares):
    """The sum of all powers, which is an inverse, from the last node."""
    identity = numpy.eye(len(shares))
    return numpy.linalg.inv(identity - shares)[-1]


def test_influence_is_the_sum_over_all_paths():
    graph = random_graph()
    expected = influence_of(matrix(graph))
    assert graph.influence() == pytest.approx(expected.tolist(), abs=1e-12)
    assert graph.influence()[-1] == 1


@pytest.mark.parametrize(("node_share", "edge_share"), [(0.8, 0.98), (0.5, 0.7)])
def test_pruning_keeps_the_shares_of_influence(node_share, edge_share):
    graph = random_graph()
    pruned = graph.pruned(node_share, edge_share)

    shares = matrix(graph)
    influence = influence_of(shares)
    influence[-1] = 0
    kept = strongest(influence, node_share)
    kept[[0, 1, -1]] = True
    shares[~kept] = 0
    shares[:, ~kept] = 0
    shares /= numpy.maximum(shares.sum(1, keepdims=True), 1e-300)
    along = shares * influence_of(shares)[:, None]
    keeps_edge = strongest(along.ravel(), edge_share).reshape(shares.shape)

    fixed = numpy.zeros(len(kept), dtype=bool)
    fixed[[0, 1, -1]] = True
    is_error = numpy.array([node.kind == "error" for node in graph.nodes])
    for _ in graph.nodes:
        kept &= keeps_edge.any(0) | fixed
        kept &= keeps_edge.any(1) | fixed | is_error
        keeps_edge &= kept[:, None] & kept[None]

    expected = [
        node for node, is_kept in zip(graph.nodes, kept, strict=True) if is_kept
    ]
    assert list(pruned.nodes) == expected
    assert 3 < len(pruned.nodes) < len(graph.nodes)
    assert names(pruned) == {
        (graph.nodes[source].name, graph.nodes[target].name)
        for target, source in zip(*keeps_edge.nonzero(), strict=True)
    }


def strongest(scores, share):
    order = numpy.argsort(-scores, kind="stable")
    running = scores[order].cumsum() / scores.sum()
    n_kept = int((running < share).sum()) + 1
    mask = numpy.zeros(len(scores), dtype=bool)
    mask[order[:n_kept]] = True
    return mask


def names(graph):
    nodes = graph.nodes
    return {(nodes[edge.source].name, nodes[edge.target].name) for edge in graph.edges}


def test_effects_stay_as_they_are():
    graph = graphs.graph()
    pruned = graph.pruned(1, 0.98)
    assert pruned.nodes == graph.nodes
    # The one edge with almost no influence.
    assert pruned.edges == graph.edges[:5]


def test_a_node_from_which_no_edge_leads_anywhere_goes():
    edges = (*graphs.graph().edges[:2], graphs.edge(4, 5, 1.0), graphs.edge(3, 4, 1.0))
    pruned = graphs.graph(edges=edges).pruned(1, 1)
    assert [node.name for node in pruned.nodes] == [
        "tokens/0/token",
        "tokens/1/token",
        f"{graphs.FIRST}/1/error",
        f"{graphs.SECOND}/1/3",
        "metric/1/metric",
    ]


def test_a_graph_without_edges_keeps_tokens_and_the_metric():
    pruned = graphs.graph(edges=()).pruned()
    assert [node.kind for node in pruned.nodes] == ["token", "token", "metric"]


@pytest.mark.parametrize("share", [0, 1.5, "all", float("nan")])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_shares(share):
    with pytest.raises(sle.InvalidArgument, match="nodes must be"):
        graphs.graph().pruned(share)
