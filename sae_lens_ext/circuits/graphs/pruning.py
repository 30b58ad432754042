"""The nodes and edges of a graph that most of the metric comes through."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy

from sae_lens_ext.circuits.graphs.parts import GraphEdge, GraphNode

Array = numpy.ndarray


@dataclass(frozen=True, eq=False)
class Flow:
    """Edges as flat arrays, and how influence passes along them.

    Attributes:
        source: number of the node that each edge comes from.
        target: number of the node that it leads to, always the larger one.
        size: the size of its effect.
        n_nodes: how many nodes there are.
    """

    source: Array
    target: Array
    size: Array
    n_nodes: int

    @classmethod
    def of(cls, edges: Sequence[GraphEdge], n_nodes: int) -> "Flow":
        """The flow along the edges of a graph."""
        sources = [edge.source for edge in edges]
        targets = [edge.target for edge in edges]
        sizes = [abs(edge.effect) for edge in edges]
        return cls(
            numpy.array(sources, dtype=int),
            numpy.array(targets, dtype=int),
            numpy.array(sizes, dtype=float),
            n_nodes,
        )

    def shares(self) -> Array:
        """The share that each edge has in all that leads to its target."""
        totals = numpy.zeros(self.n_nodes)
        numpy.add.at(totals, self.target, self.size)
        incoming = totals[self.target]
        return numpy.divide(
            self.size, incoming, out=numpy.zeros_like(self.size), where=incoming > 0
        )

    def influence(self, starts: Sequence[int]) -> Array:
        """The influence of every node: 1 at the starts together, passed down.

        Args:
            starts: numbers of the nodes where influence begins.
        """
        influence = numpy.zeros(self.n_nodes)
        influence[list(starts)] = 1 / max(1, len(starts))
        shares = self.shares()

        # A target comes after its sources, so what it has is known before it passes on.
        order = numpy.argsort(-self.target, kind="stable")
        for number in order:
            passed = shares[number] * influence[self.target[number]]
            influence[self.source[number]] += passed
        return influence

    def along(self, starts: Sequence[int]) -> Array:
        """The influence that passes along every edge."""
        return self.shares() * self.influence(starts)[self.target]

    def within(self, nodes: Array) -> "Flow":
        """The same nodes, and only the edges between those of a mask."""
        is_inside = nodes[self.source] & nodes[self.target]
        size = numpy.where(is_inside, self.size, 0)
        return replace(self, size=size)


def kept_parts(
    nodes: Sequence[GraphNode],
    flow: Flow,
    node_share: float,
    edge_share: float,
) -> tuple[list[int], list[int]]:
    """Numbers of the nodes and edges that stay; see ``Graph.pruned``.

    Args:
        nodes: the nodes.
        flow: their edges.
        node_share: the share of the influence of nodes to keep.
        edge_share: the share of that of edges.
    """
    kinds = numpy.array([node.kind for node in nodes], dtype=object)
    starts = numpy.flatnonzero(kinds == "metric").tolist()
    is_fixed = (kinds == "token") | (kinds == "metric")

    influence = flow.influence(starts)
    influence[starts] = 0
    keeps_node = _strongest(influence, node_share) | is_fixed
    keeps_edge = _strongest(flow.within(keeps_node).along(starts), edge_share)

    # An error, and a feature whose inputs were not computed, may stand alone.
    is_target = numpy.array([node.is_target for node in nodes], dtype=bool)
    needs_input = is_target & (kinds == "feature")
    while True:
        has_output = _touched(flow.source[keeps_edge], len(nodes))
        has_input = _touched(flow.target[keeps_edge], len(nodes))
        still = keeps_node & (has_output | is_fixed) & (has_input | ~needs_input)
        keeps_edge = keeps_edge & still[flow.source] & still[flow.target]
        if (still == keeps_node).all():
            break
        keeps_node = still

    node_numbers = numpy.flatnonzero(keeps_node)
    edge_numbers = numpy.flatnonzero(keeps_edge)
    return node_numbers.tolist(), edge_numbers.tolist()


def _strongest(scores: Array, share: float) -> Array:
    """A mask of the largest scores that together are a share of all."""
    order = numpy.argsort(-scores, kind="stable")
    running = scores[order].cumsum()
    total = running[-1] if len(running) else 0.0
    # As many as it takes to reach the share; rounding must not ask for more.
    n_kept = int((running < share * total * (1 - 1e-12)).sum()) + 1
    mask = numpy.zeros(len(scores), dtype=bool)
    mask[order[:n_kept]] = True
    return mask & (scores > 0)


def _touched(numbers: Array, n_nodes: int) -> Array:
    mask = numpy.zeros(n_nodes, dtype=bool)
    mask[numbers] = True
    return mask
