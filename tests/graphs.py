"""A small circuit graph, written by hand."""

import sae_lens_ext as sle
from sae_lens_ext.circuits import GraphEdge, GraphNode

FIRST = "blocks.0.hook_resid_post"
SECOND = "blocks.1.hook_resid_post"
SCRIPT = "<script>alert('$1')</script>"


def node(kind, site, position, **fields):
    tokens = ("<bos>", SCRIPT)
    fields = {"token": tokens[position], **fields}
    return GraphNode(kind=kind, site=site, position=position, **fields)


def edge(source, target, effect, preactivation=None):
    return GraphEdge(
        source=source, target=target, effect=effect, preactivation=preactivation
    )


def graph(**changes):
    """Two tokens, two features and an error at two sites, and the metric."""
    target = {"is_target": True}
    nodes = (
        node("token", "tokens", 0, effect=0.25),
        node("token", "tokens", 1, effect=1 / 3),
        node("feature", FIRST, 1, feature=17, activation=2.5, effect=-1.0, **target),
        node("error", FIRST, 1, effect=0.5),
        node("feature", SECOND, 1, feature=3, activation=0.1, effect=2.0, **target),
        node("metric", "metric", 1, activation=1.5, **target),
    )
    edges = (
        edge(0, 2, 0.1, 0.7),
        edge(1, 2, -1.1, -7.7),
        edge(2, 4, 3.0, 0.3),
        edge(3, 4, -1.0, -0.1),
        edge(4, 5, 2.0),
        edge(3, 5, 0.001),
    )
    fields = {
        "nodes": nodes,
        "edges": edges,
        "k": {FIRST: 8, SECOND: 8},
        "sites": (FIRST, SECOND),
        "tokens": ("<bos>", SCRIPT),
        "model": "tiny",
        "metric": "logit_difference(7, 9)",
        "metric_clean": 1.5,
        "freeze": ("attention", "norms"),
    }
    return sle.circuits.Graph(**{**fields, **changes})
