"""A graph as JSON, and back.

The fields of the document are those of ``Graph``, ``GraphNode`` and ``GraphEdge``, each
of them in it, with ``format`` and ``version`` in front. Numbers are written with all
their digits, so a graph that is read is the one that was written.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from sae_lens_ext.circuits.graphs.parts import KINDS, GraphEdge, GraphNode
from sae_lens_ext.errors import FormatError, InvalidArgument

FORMAT = "sae-lens-ext circuit graph"
VERSION = 1


def written(graph: Any) -> str:
    """See ``Graph.to_json``."""
    content = {"format": FORMAT, "version": VERSION}
    content |= {field.name: getattr(graph, field.name) for field in fields(graph)}
    content["k"] = dict(graph.k)
    content["nodes"] = [asdict(node) for node in graph.nodes]
    content["edges"] = [asdict(edge) for edge in graph.edges]
    try:
        return json.dumps(content, allow_nan=False, indent=1)
    except ValueError as error:
        raise InvalidArgument(
            "a number of this graph is NaN or infinite, which JSON has no name for; "
            "check the effects that it was made from"
        ) from error


def read(cls: Any, text: str) -> Any:
    """See ``Graph.from_json``; ``cls`` is ``Graph``."""
    content = _content(text)
    if content.get("format") != FORMAT:
        raise FormatError(
            f"a circuit graph has the format {FORMAT!r}; this is "
            f"{content.get('format')!r}"
        )
    version = content.get("version")
    if version != VERSION:
        raise FormatError(
            f"this version of sae-lens-ext reads version {VERSION} of circuit graphs; "
            f"got {version!r}: update sae-lens-ext, or write the graph again"
        )

    body = {
        name: value
        for name, value in content.items()
        if name not in ("format", "version")
    }
    values = _checked(body, _GRAPH, "the graph")
    nodes = [
        GraphNode(**_checked(node, _NODE, f"nodes[{number}]"))
        for number, node in enumerate(values.pop("nodes"))
    ]
    edges = [
        GraphEdge(**_checked(edge, _EDGE, f"edges[{number}]"))
        for number, edge in enumerate(values.pop("edges"))
    ]
    try:
        return cls(nodes=tuple(nodes), edges=tuple(edges), **values)
    except InvalidArgument as error:
        raise FormatError(f"this is not a graph: {error}") from error


def _content(text: str) -> dict[str, Any]:
    def reject(name: str) -> None:
        raise FormatError(f"a circuit graph has finite numbers; this one has {name}")

    try:
        content = json.loads(text, parse_constant=reject)
    except (TypeError, ValueError, RecursionError) as error:
        # FormatError is a ValueError as well.
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"a circuit graph is JSON; this is not: {error}") from error
    if not isinstance(content, dict):
        raise FormatError(
            "a circuit graph is a JSON object, as Graph.to_json writes it; this is "
            f"{_kind(content)}"
        )
    return content


Reader = Callable[[Any], Any]
"""Makes the value of a field of what JSON has, or raises ``ValueError``."""


def _checked(
    content: Any,
    readers: dict[str, tuple[Reader, str]],
    path: str,
) -> dict[str, Any]:
    """The fields of an object, each of which must be there."""
    if not isinstance(content, dict):
        raise FormatError(f"{path} must be an object; got {_kind(content)}")
    for name in content:
        if name not in readers:
            raise FormatError(
                f"{path} has an unknown field {name!r}; its fields are "
                f"{', '.join(readers)}"
            )

    values = {}
    for name, (reader, expected) in readers.items():
        if name not in content:
            raise FormatError(f"{path} has no field {name!r}, {expected}")
        try:
            values[name] = reader(content[name])
        except ValueError as error:
            raise FormatError(
                f"{name} of {path} must be {expected}; got {_shown(content[name])}"
            ) from error
    return values


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _kind_of_node(value: Any) -> str:
    if value not in KINDS:
        raise ValueError
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # 1e999 is infinity, and an integer may be too large for a float.
    if not is_number or not math.isfinite(_as_float(value)):
        raise ValueError
    return float(value)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _optional(reader: Reader) -> Reader:
    return lambda value: None if value is None else reader(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError
    return value


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(_string(item) for item in _list(value))


def _counts_by_name(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise ValueError
    return {name: _count(number) for name, number in value.items()}


_GRAPH: dict[str, tuple[Reader, str]] = {
    "nodes": (_list, "a list of nodes"),
    "edges": (_list, "a list of edges"),
    "k": (_counts_by_name, "the k of every site, by its name"),
    "sites": (_strings, "a list of names of sites"),
    "tokens": (_strings, "a list of texts, one for every token"),
    "model": (_string, "a string"),
    "metric": (_string, "a string"),
    "metric_clean": (_number, "a finite number"),
    "metric_corrupted": (_optional(_number), "a finite number or null"),
    "freeze": (_strings, "a list of names"),
    "row": (_count, "an integer of at least 0"),
}
_NODE: dict[str, tuple[Reader, str]] = {
    "kind": (_kind_of_node, f"one of {', '.join(KINDS)}"),
    "site": (_string, "the name of a site"),
    "position": (_count, "an integer of at least 0"),
    "token": (_string, "the text of a token"),
    "feature": (_optional(_count), "an integer of at least 0 or null"),
    "activation": (_optional(_number), "a finite number or null"),
    "effect": (_optional(_number), "a finite number or null"),
    "label": (_optional(_string), "a string or null"),
    "is_target": (_boolean, "true or false"),
}
_EDGE: dict[str, tuple[Reader, str]] = {
    "source": (_count, "the number of a node"),
    "target": (_count, "the number of a node"),
    "effect": (_number, "a finite number"),
    "preactivation": (_optional(_number), "a finite number or null"),
}


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")


def _shown(value: Any) -> str:
    """A value, or its beginning."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
