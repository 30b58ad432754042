"""A circuit graph as a figure: sites as rows, positions as columns."""

from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.circuits import Graph
from sae_lens_ext.viz.graph_layout import (
    Layout,
    heading,
    node_text,
    token_text,
)
from sae_lens_ext.viz.theme import Palette, Theme, checked_theme

_MARKERS = {"token": "s", "feature": "o", "error": "D", "metric": "*"}
# Inches for one node across and one row up.
_CELL = (0.62, 0.95)
_LARGEST = (28.0, 20.0)


def plot_graph(
    graph: Graph,
    *,
    theme: Theme = "light",
    title: str | None = None,
) -> Any:
    """Draw a graph with matplotlib.

    Tokens are the lowest row and the metric the highest. Features are circles, errors
    diamonds. A line is wide where the effect of the edge is large; blue raises the
    metric, orange lowers it. A graph with thousands of edges is best pruned first.

    ::

        plot_graph(edges.graph(k=8).pruned())

    Args:
        graph: what ``Edges.graph`` gave.
        theme: ``"light"`` or ``"dark"``.
        title: heading; None names the metric, k and the model.

    Returns:
        A matplotlib figure.

    Raises:
        InvalidArgument: not a graph, or no such theme.
    """
    layout = Layout.of(graph)
    palette = checked_theme(theme)
    figure_module = require("matplotlib.figure", "Plotting")
    width = min(_LARGEST[0], 2.2 + _CELL[0] * layout.width)
    height = min(_LARGEST[1], 1.2 + _CELL[1] * len(layout.rows))
    figure = figure_module.Figure(
        figsize=(max(5.0, width), height), layout="constrained", facecolor=palette.paper
    )
    axes = figure.subplots()

    _draw_lines(axes, layout, palette)
    _draw_nodes(axes, graph, layout, palette)
    _draw_axes(axes, graph, layout, palette)
    # Texts of others are not mathematics, whatever dollars they hold.
    figure.suptitle(
        title or heading(graph), color=palette.ink, fontsize=11, parse_math=False
    )
    return figure


def _draw_lines(
    axes: Any,
    layout: Layout,
    palette: Palette,
) -> None:
    for line in layout.lines:
        xs, ys = zip(
            layout.places[line.source], layout.places[line.target], strict=True
        )
        axes.plot(
            xs,
            ys,
            color=palette.positive if line.is_positive else palette.negative,
            linewidth=0.4 + 3.6 * line.share,
            alpha=0.25 + 0.65 * line.share,
            zorder=1 + line.share,
            solid_capstyle="round",
        )


def _draw_nodes(
    axes: Any,
    graph: Graph,
    layout: Layout,
    palette: Palette,
) -> None:
    effects = require("matplotlib.patheffects", "Plotting")
    # Paper around names, which edges pass behind.
    halo = [effects.withStroke(linewidth=2, foreground=palette.paper)]
    for node, (x, y), share, lift in zip(
        graph.nodes,
        layout.places,
        layout.shares,
        layout.lifts,
        strict=True,
    ):
        colour = palette.muted
        if node.kind == "feature":
            is_positive = (node.effect or 0) >= 0
            colour = palette.positive if is_positive else palette.negative
        radius = 3 + 3.5 * share
        axes.plot(
            [x],
            [y],
            _MARKERS[node.kind],
            color=colour,
            markeredgecolor=palette.paper,
            markersize=2 * radius,
            zorder=3,
        )
        # The row of tokens is named below the axes.
        if node.kind == "token":
            continue
        axes.annotate(
            node_text(node),
            (x, y),
            xytext=(0, radius + 4 + 9 * lift),
            textcoords="offset points",
            ha="center",
            color=palette.ink,
            fontsize=7,
            parse_math=False,
            path_effects=halo,
            zorder=4,
        )


def _draw_axes(
    axes: Any,
    graph: Graph,
    layout: Layout,
    palette: Palette,
) -> None:
    axes.set_facecolor(palette.paper)
    axes.set_xlim(-0.3, layout.width + 0.3)
    axes.set_ylim(-0.25, len(layout.rows) - 0.55)
    axes.set_yticks(range(len(layout.rows)), layout.rows)
    texts = [token_text(graph.tokens[position]) for position in layout.columns]
    axes.set_xticks(list(layout.columns.values()), texts)
    for label in axes.get_xticklabels():
        label.set(rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.tick_params(colors=palette.ink, labelsize=8, length=0)
    axes.grid(axis="y", color=palette.line, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
