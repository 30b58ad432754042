"""A graph from the tables of effects and edges of one row."""

from collections.abc import Sequence
from typing import Any

from sae_lens_ext.circuits.direct import METRIC, TOKENS
from sae_lens_ext.circuits.graphs.parts import GraphEdge, GraphNode
from sae_lens_ext.circuits.table import ERROR

Key = tuple[str, int, int]
"""A node by its site, position and feature, as tables name it."""


class Nodes:
    """The nodes of a graph, and their numbers."""

    def __init__(self) -> None:
        """No nodes yet."""
        self.nodes: list[GraphNode] = []
        self._numbers: dict[Key, int] = {}

    def add(self, key: Key, node: GraphNode) -> None:
        """Add a node."""
        self._numbers[key] = len(self.nodes)
        self.nodes.append(node)

    def edges_of(self, table: Any) -> list[GraphEdge]:
        """The edges of a table that are between these nodes."""
        columns = [
            table[name].tolist()
            for name in (
                *(f"source_{part}" for part in ("site", "position", "feature")),
                *(f"target_{part}" for part in ("site", "position", "feature")),
                "effect",
                "preactivation",
            )
        ]
        edges = []
        for *ends, effect, preactivation in zip(*columns, strict=True):
            source = self._numbers.get((ends[0], ends[1], ends[2]))
            target = self._numbers.get((ends[3], ends[4], ends[5]))
            if source is None or target is None:
                continue
            # NaN where the target is not a feature.
            is_number = preactivation == preactivation
            edges.append(
                GraphEdge(
                    source=source,
                    target=target,
                    effect=effect,
                    preactivation=preactivation if is_number else None,
                )
            )
        return edges


def nodes_of(
    table: Any,
    chosen: set[Key],
    targets: set[Key],
    activations: dict[Key, float],
    token_effects: Sequence[float],
    tokens: Sequence[str],
    sites: Sequence[str],
    metric: tuple[int, float],
) -> Nodes:
    """Tokens, the chosen nodes of every site, and the metric.

    Args:
        table: the effects of the row, a DataFrame as of ``Effects.at``.
        chosen: the nodes of the table to take.
        targets: those that edges lead to.
        activations: of features in the clean run.
        token_effects: the effect of every token.
        tokens: the text of every token.
        sites: the sites in the order of the run.
        metric: its position and its value.
    """
    nodes = Nodes()
    for position, (token, effect) in enumerate(zip(tokens, token_effects, strict=True)):
        node = GraphNode(
            kind="token",
            site=TOKENS,
            position=position,
            token=token,
            effect=effect,
        )
        nodes.add((TOKENS, position, ERROR), node)

    for site in sites:
        here = table[table["site"] == site]
        columns = (here[name].tolist() for name in ("position", "feature", "effect"))
        for position, feature, effect in zip(*columns, strict=True):
            key = (site, position, feature)
            if key not in chosen:
                continue
            node = GraphNode(
                kind="error" if feature == ERROR else "feature",
                site=site,
                position=position,
                token=tokens[int(position)],
                feature=None if feature == ERROR else feature,
                activation=activations.get(key),
                effect=effect,
                is_target=key in targets,
            )
            nodes.add(key, node)

    position, value = metric
    node = GraphNode(
        kind="metric",
        site=METRIC,
        position=position,
        token=tokens[position],
        activation=value,
        is_target=True,
    )
    nodes.add((METRIC, position, ERROR), node)
    return nodes
