"""Nodes and the edges between them at one k, to keep, to prune and to draw.

======== =========================================================================
graph    ``Graph``: its nodes, its edges, and what they are of
build    a graph from tables of effects and edges
document a graph as JSON, and back
pruning  the nodes and edges that most of the metric comes through
exchange a graph for networkx
======== =========================================================================
"""

from sae_lens_ext.circuits.graphs.graph import Graph, GraphEdge, GraphNode

__all__ = ["Graph", "GraphEdge", "GraphNode"]
