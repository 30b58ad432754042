"""A graph for networkx, and with it for what networkx writes."""

import json
from dataclasses import fields
from typing import Any

from sae_lens_ext._optional import require


def networkx_graph(graph: Any) -> Any:
    """See ``Graph.to_networkx``."""
    networkx = require("networkx", "Graph.to_networkx")
    facts = {}
    for field in fields(graph):
        value = getattr(graph, field.name)
        if field.name in ("nodes", "edges") or value is None:
            continue
        is_number_or_text = isinstance(value, str | int | float)
        facts[field.name] = value if is_number_or_text else json.dumps(value)

    result = networkx.DiGraph(**facts)
    names = [node.name for node in graph.nodes]
    for name, node in zip(names, graph.nodes, strict=True):
        result.add_node(name, **_values(node))
    for edge in graph.edges:
        values = _values(edge)
        source = names[values.pop("source")]
        target = names[values.pop("target")]
        result.add_edge(source, target, **values)
    return result


def _values(part: Any) -> dict[str, Any]:
    """The fields that have a value."""
    values = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if value is not None:
            values[field.name] = value
    return values
