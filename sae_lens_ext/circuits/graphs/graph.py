"""A graph of nodes and edges at one k."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._labels import Labels, labels_by_site
from sae_lens_ext.circuits.graphs import document
from sae_lens_ext.circuits.graphs.exchange import networkx_graph
from sae_lens_ext.circuits.graphs.parts import GraphEdge, GraphNode
from sae_lens_ext.circuits.graphs.pruning import Flow, kept_parts
from sae_lens_ext.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes of one row of text, and the edges between them; made by ``Edges.graph``.

    ::

        graph = edges.graph(k=8, sources="all").pruned()
        Path("graph.json").write_text(graph.to_json(), encoding="utf-8")
        graph == Graph.from_json(Path("graph.json").read_text(encoding="utf-8"))

    Attributes:
        nodes: tokens first, then the nodes of each site in the order of the run, and
            the metric last, so that every edge leads to a later node.
        edges: what nodes give to each other directly.
        k: features per token, by site.
        sites: names of the sites, in the order in which the model computes them.
        tokens: the text of every token of the row.
        model: name of the model.
        metric: the metric, in words.
        metric_clean: the metric of the clean run.
        metric_corrupted: that of the corrupted run; None without one.
        freeze: what was held at its values in the clean run.
        row: of the batch.
    """

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    k: Mapping[str, int]
    sites: tuple[str, ...]
    tokens: tuple[str, ...]
    model: str
    metric: str
    metric_clean: float
    metric_corrupted: float | None = None
    freeze: tuple[str, ...] = ()
    row: int = 0

    def __post_init__(self) -> None:
        """Check that edges are between nodes of the graph.

        Raises:
            InvalidArgument: two nodes are one, nodes are of another site or position
                than the graph has, or an edge does not lead to a later node.
        """
        names = [node.name for node in self.nodes]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidArgument(f"a graph has a node once; {twice} is there twice")
        for node in self.nodes:
            is_known = node.kind in ("token", "metric") or node.site in self.sites
            if not is_known or not 0 <= node.position < len(self.tokens):
                raise InvalidArgument(
                    f"{node.name} is not a node of this graph, which has the sites "
                    f"{', '.join(self.sites)} and {len(self.tokens)} tokens"
                )
        for number, edge in enumerate(self.edges):
            if not 0 <= edge.source < edge.target < len(self.nodes):
                raise InvalidArgument(
                    f"edge {number} leads from node {edge.source} to node "
                    f"{edge.target}; an edge leads to a later one of the "
                    f"{len(self.nodes)} nodes"
                )

    def pruned(self, nodes: int | float = 0.8, edges: int | float = 0.98) -> "Graph":
        """The nodes and edges that most of the metric comes through.

        The influence of a node is the share of the metric that comes through it: each
        node passes its own on to where its edges come from, in proportion to their
        sizes, from the metric, which has 1, down. The most influential nodes that hold
        the share ``nodes`` of all influence stay, and of the edges between them, whose
        influence is what passes along them, those that hold the share ``edges``. Tokens
        and the metric stay; features and errors from which then no edge leads anywhere
        are removed, and so are targets into which no edge leads, but for errors.

        Args:
            nodes: above 0 and up to 1, which keeps every node with any influence.
            edges: the same for edges.

        Raises:
            InvalidArgument: not such a share.

        Source: Ameisen et al. 2025; ``prune_graph`` of circuit-tracer, with the metric
        in the place of the logits.
        """
        node_share = arguments.finite(nodes, "nodes", above=0, at_most=1)
        edge_share = arguments.finite(edges, "edges", above=0, at_most=1)
        kept_nodes, kept_edges = kept_parts(
            self.nodes, Flow.of(self.edges, len(self.nodes)), node_share, edge_share
        )

        new_number = {old: new for new, old in enumerate(kept_nodes)}
        new_edges = []
        for number in kept_edges:
            edge = self.edges[number]
            source = new_number[edge.source]
            target = new_number[edge.target]
            new_edges.append(replace(edge, source=source, target=target))
        return replace(
            self,
            nodes=tuple(self.nodes[number] for number in kept_nodes),
            edges=tuple(new_edges),
        )

    def influence(self) -> list[float]:
        """The share of the metric that comes through each node; see ``pruned``."""
        flow = Flow.of(self.edges, len(self.nodes))
        starts = []
        for number, node in enumerate(self.nodes):
            if node.kind == "metric":
                starts.append(number)
        return flow.influence(starts).tolist()

    def labelled(self, labels: Labels) -> "Graph":
        """The same graph with labels at features.

        ::

            graph.labelled({"blocks.12.hook_resid_post": sle.labels(sae, [981, 4])})

        Args:
            labels: texts by feature, where the graph has one site; by site and then by
                feature; or by pairs of site and feature. Features that are not in the
                graph are ignored; those that are not named keep their labels.

        Raises:
            InvalidArgument: not such texts, or none of them at a site of the graph.
        """
        by_site = labels_by_site(labels, self.sites)
        nodes = []
        for node in self.nodes:
            label = node.label
            if node.feature is not None:
                label = by_site.get(node.site, {}).get(node.feature, label)
            nodes.append(replace(node, label=label))
        return replace(self, nodes=tuple(nodes))

    def to_json(self) -> str:
        """The graph as JSON, in the format that ``docs/circuit_graphs.md`` describes.

        Raises:
            InvalidArgument: a number is NaN or infinite, which JSON has no name for.
        """
        return document.written(self)

    @classmethod
    def from_json(cls, text: str) -> "Graph":
        """The inverse of ``to_json``, exactly.

        Raises:
            FormatError: the text is not a graph in that format; the message names the
                field.
        """
        return document.read(cls, text)

    def to_networkx(self) -> Any:
        """A ``networkx.DiGraph`` with the names of nodes, and their fields.

        Fields without a value are left out, and lists are JSON, so that every writer of
        networkx takes the graph.

        Raises:
            MissingDependency: networkx is not installed.
        """
        return networkx_graph(self)

    def __repr__(self) -> str:
        """Sizes, not numbers."""
        return f"Graph({len(self.nodes)} nodes, {len(self.edges)} edges, k={self.k})"
