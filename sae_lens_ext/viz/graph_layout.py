"""Where the nodes of a circuit graph stand in a picture, and how edges are drawn."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sae_lens_ext.circuits import Graph, GraphNode
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts import shown_name

# Characters of a name that fit between two nodes side by side.
_SHORT = 8


@dataclass(frozen=True)
class Line:
    """An edge in a picture.

    Attributes:
        source: number of the node where it begins.
        target: number of the node where it ends.
        share: its size, as a share of that of the largest edge.
        is_positive: whether it raises the metric.
        text: what to say about it.
    """

    source: int
    target: int
    share: float
    is_positive: bool
    text: str


@dataclass(frozen=True)
class Layout:
    """Nodes on a grid: sites as rows from the tokens up, positions as columns.

    Attributes:
        rows: names of the rows, from the lowest.
        columns: the middle of the column of every position that has nodes, in units of
            one node.
        width: of all columns.
        places: x and y of every node, in units of one node and of one row.
        shares: the size of the effect of every node, as a share of the largest; 1 for
            the metric.
        lifts: 1 for a node whose name stands a line higher than those beside it,
            because names of that row are longer than the way between two nodes.
        lines: the edges, the weakest first, so that the strongest are drawn on top.
        largest: the size of the largest effect of an edge.
    """

    rows: list[str]
    columns: dict[int, float]
    width: float
    places: list[tuple[float, float]]
    shares: list[float]
    lifts: list[int]
    lines: list[Line]
    largest: float

    @classmethod
    def of(cls, graph: Graph) -> "Layout":
        """The layout of a graph.

        Raises:
            InvalidArgument: not a graph.
        """
        if not isinstance(graph, Graph):
            raise InvalidArgument(
                "give a Graph, such as edges.graph(k=8).pruned(); got an object of "
                f"type {type(graph).__name__}"
            )
        rows = ["tokens", *graph.sites, "metric"]
        cells = Counter((node.site, node.position) for node in graph.nodes)
        widths: dict[int, int] = defaultdict(int)
        for (_, position), n_nodes in cells.items():
            widths[position] = max(widths[position], n_nodes)

        columns = {}
        width = 0.0
        for position in sorted(widths):
            columns[position] = width + widths[position] / 2
            width += widths[position]

        taken: Counter[tuple[str, int]] = Counter()
        places = []
        for node in graph.nodes:
            cell = (node.site, node.position)
            offset = taken[cell] - (cells[cell] - 1) / 2
            taken[cell] += 1
            row = float(rows.index(node.site))
            places.append((columns[node.position] + offset, row))

        largest = max((abs(edge.effect) for edge in graph.edges), default=0.0)
        return cls(
            rows,
            columns,
            max(1.0, width),
            places,
            _shares(graph.nodes),
            _lifts(graph, places),
            _lines(graph, largest),
            largest,
        )


def token_text(token: str) -> str:
    """A token on one line, with its space to be seen.

    >>> token_text(" Paris"), token_text("a\\n")
    ('·Paris', 'a↵')
    """
    visible = token.replace(" ", "·").replace("\n", "↵").replace("\t", "→")
    return _printable(visible)


def label_text(label: str, length: int = 18) -> str:
    """A label on one line, of at most some characters.

    >>> label_text("cities in\\nFrance"), label_text("cities in France", length=10)
    ('cities in France', 'cities in…')
    """
    return shortened(_printable(" ".join(label.split())), length)


def node_text(node: GraphNode) -> str:
    """The short name of a node in a picture."""
    if node.kind == "token":
        return shortened(token_text(node.token))
    if node.feature is None:
        return node.kind
    return label_text(f"{node.feature} {node.label or ''}")


def node_details(node: GraphNode) -> str:
    """All that is known of a node, on a line each."""
    lines = [f"{node.kind} at {node.site}, position {node.position}"]
    lines.append(f"token {node.token!r}")
    if node.feature is not None:
        lines.append(f"feature {node.feature}")
    if node.label:
        lines.append(node.label)
    for name in ("activation", "effect"):
        value = getattr(node, name)
        if value is not None:
            lines.append(f"{name} {value:.4g}")
    return "\n".join(lines)


def heading(graph: Graph) -> str:
    """What the picture is of."""
    values = sorted(set(graph.k.values()))
    ks = str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"
    return (
        f"{graph.metric} = {graph.metric_clean:.3g}, k={ks}, {shown_name(graph.model)}"
    )


def shortened(text: str, length: int = 18) -> str:
    """A text of at most some characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _lifts(
    graph: Graph,
    places: list[tuple[float, float]],
) -> list[int]:
    """Every second node of a row with long names is lifted, from left to right."""
    lifts = [0] * len(places)
    for row in {y for _, y in places}:
        numbers = [number for number, (_, y) in enumerate(places) if y == row]
        if max(len(node_text(graph.nodes[number])) for number in numbers) <= _SHORT:
            continue
        numbers.sort(key=lambda number: places[number][0])
        for number in numbers[1::2]:
            lifts[number] = 1
    return lifts


def _lines(graph: Graph, largest: float) -> list[Line]:
    lines = []
    for edge in sorted(graph.edges, key=lambda edge: abs(edge.effect)):
        ends = (graph.nodes[edge.source].name, graph.nodes[edge.target].name)
        lines.append(
            Line(
                edge.source,
                edge.target,
                abs(edge.effect) / largest if largest else 0.0,
                edge.effect >= 0,
                f"{ends[0]} → {ends[1]}\neffect {edge.effect:.4g}",
            )
        )
    return lines


def _shares(nodes: Sequence[GraphNode]) -> list[float]:
    largest = max((abs(node.effect or 0) for node in nodes), default=0)
    shares = []
    for node in nodes:
        share = abs(node.effect or 0) / largest if largest else 0.0
        shares.append(1.0 if node.kind == "metric" else share)
    return shares
