"""A circuit graph as one HTML page with an inline SVG, without a script."""

from html import escape

from sae_lens_ext.circuits import Graph
from sae_lens_ext.viz.graph_layout import (
    Layout,
    heading,
    node_details,
    node_text,
    token_text,
)
from sae_lens_ext.viz.theme import PALETTES, checked_theme

# Pixels: one node across, one row up, and what is left free around them.
_NODE = 64
_ROW = 92
_LEFT = 12
_TOP = 46
_BOTTOM = 56
# Fields of a node in the table, before its label and after.
_COLUMNS = ("kind", "site", "position", "token", "feature")
_NUMBERS = ("activation", "effect")

_STYLE = """
:root {{ {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
:root[data-theme="light"] {{ {light} }}
:root[data-theme="dark"] {{ {dark} }}
body {{ margin: 0; padding: 24px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
h1 {{ font-size: 20px; margin: 0 0 4px; }}
p {{ margin: 0 0 16px; color: var(--muted); font-size: 13px; }}
h1 {{ overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; }}
.graph {{ position: relative; width: max-content; }}
.graph svg {{ display: block; }}
/* Names of rows stay in sight when the graph is scrolled. */
.rows {{ position: sticky; left: 0; width: 0; height: 0; }}
.rows span {{ position: absolute; left: 0; white-space: nowrap; font-size: 11px;
  line-height: 1; color: var(--muted); }}
:focus-visible {{ outline: 2px solid var(--positive); outline-offset: 1px; }}
summary {{ cursor: pointer; color: var(--muted); margin: 12px 0 4px; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ border-bottom: 1px solid var(--line); padding: 3px 12px 3px 0;
  text-align: left; font-variant-numeric: tabular-nums; }}
svg text {{ font-size: 11px; fill: var(--ink); paint-order: stroke;
  stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }}
svg .grid {{ stroke: var(--line); }}
svg .edge {{ fill: none; stroke-linecap: round; }}
svg .edge:hover {{ stroke-opacity: 1; }}
svg .positive {{ stroke: var(--positive); }}
svg .negative {{ stroke: var(--negative); }}
svg .node {{ stroke: var(--paper); fill: var(--muted); }}
svg .node.raises {{ fill: var(--positive); }}
svg .node.lowers {{ fill: var(--negative); }}
"""

_PAGE = """<!doctype html>
<html lang="en"{theme}>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{note}</p>
<div class="scroll" tabindex="0" role="region" aria-label="The graph">
<div class="graph">
<div class="rows">{rows}</div>
{svg}
</div>
</div>
<details>
<summary>Nodes as a table</summary>
<div class="scroll" tabindex="0" role="region" aria-label="Nodes of the graph">
{table}
</div>
</details>
</body>
</html>
"""


def render_graph(
    graph: Graph,
    *,
    theme: str | None = None,
    title: str | None = None,
) -> str:
    """Render a graph as one string of self-contained HTML.

    The picture is that of ``plot_graph``; over a node or an edge, the browser shows its
    numbers, and a table below has those of the nodes. The page holds no script and
    needs no network. Texts (tokens, labels, names of models) come from anywhere, so all
    of them are escaped.

    ::

        Path("graph.html").write_text(render_graph(graph), encoding="utf-8")

    Args:
        graph: what ``Edges.graph`` gave.
        theme: ``"light"`` or ``"dark"``; None follows the reader's system.
        title: heading; None names the metric, k and the model.

    Raises:
        InvalidArgument: not a graph, or no such theme.
    """
    layout = Layout.of(graph)
    attribute = ""
    if theme is not None:
        checked_theme(theme)
        attribute = f' data-theme="{theme}"'

    colours = {
        name: " ".join(f"--{field}: {value};" for field, value in vars(palette).items())
        for name, palette in PALETTES.items()
    }
    note = (
        f"{len(graph.nodes)} nodes, {len(graph.edges)} edges. The widest line stands "
        f"for an effect of {layout.largest:.3g}; blue raises the metric, orange lowers "
        "it. Circles are features, diamonds errors."
    )
    return _PAGE.format(
        theme=attribute,
        title=escape(title or heading(graph)),
        style=_STYLE.format(**colours),
        note=escape(note),
        rows=_row_names(layout),
        svg=_svg(graph, layout),
        table=_table(graph),
    )


def _row_names(layout: Layout) -> str:
    """The name of every row, below its line."""
    bottom = _bottom_of(layout)
    return "".join(
        f'<span style="top: {bottom - _ROW * number + 14}px">{escape(name)}</span>'
        for number, name in enumerate(layout.rows)
    )


def _bottom_of(layout: Layout) -> int:
    """Where the row of tokens is."""
    return _TOP + _ROW * (len(layout.rows) - 1)


def _svg(graph: Graph, layout: Layout) -> str:
    width = 2 * _LEFT + _NODE * layout.width
    bottom = _bottom_of(layout)
    height = bottom + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" '
        f'height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img">'
    ]
    for number in range(len(layout.rows)):
        y = bottom - _ROW * number
        parts.append(f'<line class="grid" x1="0" y1="{y}" x2="{width:g}" y2="{y}"/>')
    for position, x in layout.columns.items():
        text = escape(token_text(graph.tokens[position]))
        parts.append(
            f'<text x="{_LEFT + _NODE * x:g}" y="{bottom + 42}" '
            f'text-anchor="middle">{text}</text>'
        )

    points = [(_LEFT + _NODE * x, bottom - _ROW * y) for x, y in layout.places]
    parts += _edges(layout, points)
    parts += _nodes(graph, layout, points)
    return "\n".join([*parts, "</svg>"])


def _edges(layout: Layout, points: list[tuple[float, float]]) -> list[str]:
    parts = []
    for line in layout.lines:
        (x_1, y_1), (x_2, y_2) = points[line.source], points[line.target]
        middle = (y_1 + y_2) / 2
        sign = "positive" if line.is_positive else "negative"
        parts.append(
            f'<path class="edge {sign}" stroke-width="{0.5 + 5 * line.share:.2f}" '
            f'stroke-opacity="{0.25 + 0.6 * line.share:.2f}" '
            f'd="M{x_1:g} {y_1:g} C{x_1:g} {middle:g} {x_2:g} {middle:g} '
            f'{x_2:g} {y_2:g}"><title>{escape(line.text)}</title></path>'
        )
    return parts


def _nodes(
    graph: Graph,
    layout: Layout,
    points: list[tuple[float, float]],
) -> list[str]:
    parts = []
    for node, (x, y), share, lift in zip(
        graph.nodes,
        points,
        layout.shares,
        layout.lifts,
        strict=True,
    ):
        size = 5 + 6 * share
        sign = ""
        if node.kind == "feature":
            sign = " raises" if (node.effect or 0) >= 0 else " lowers"
        details = escape(node_details(node))
        parts.append(
            f'<path class="node{sign}" d="{_outline(node.kind, x, y, size)}">'
            f"<title>{details}</title></path>"
        )
        # The row of tokens is named below it.
        if node.kind != "token":
            parts.append(
                f'<text x="{x:g}" y="{y - size - 5 - 13 * lift:.1f}" '
                f'text-anchor="middle">{escape(node_text(node))}</text>'
            )
    return parts


def _table(graph: Graph) -> str:
    """The nodes as rows, for those who read no picture."""
    names = (*_COLUMNS, "label", *_NUMBERS)
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for node in graph.nodes:
        cells = [getattr(node, name) for name in _COLUMNS]
        cells[_COLUMNS.index("token")] = token_text(node.token)
        cells.append(node.label)
        for name in _NUMBERS:
            value = getattr(node, name)
            cells.append(None if value is None else f"{value:.4g}")
        texts = ["" if cell is None else escape(str(cell)) for cell in cells]
        rows.append("<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    body = "\n".join(rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _outline(kind: str, x: float, y: float, size: float) -> str:
    """A circle for a feature, a diamond for an error, and a square for any other."""
    left = f"{x - size:.1f}"
    right = f"{x + size:.1f}"
    top = f"{y - size:.1f}"
    bottom = f"{y + size:.1f}"
    if kind == "feature":
        arc = f"A{size:.1f} {size:.1f} 0 1 0"
        return f"M{left} {y:g} {arc} {right} {y:g} {arc} {left} {y:g}Z"
    if kind == "error":
        return f"M{x:g} {top} L{right} {y:g} L{x:g} {bottom} L{left} {y:g}Z"
    return f"M{left} {top} L{right} {top} L{right} {bottom} L{left} {bottom}Z"
