"""Circuits at several k as a figure: which nodes are in the circuit of which k."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._labels import Labels, labels_by_site
from sae_lens_ext._optional import require
from sae_lens_ext.circuits import CircuitByK
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.viz.graph_layout import label_text
from sae_lens_ext.viz.theme import Palette, Theme, checked_theme, paint_axes

_NODE = ["site", "position", "feature"]
_ERROR = -1
# Inches of one row and one column.
_ROW = 0.2
_COLUMN = 0.42


def plot_circuit_by_k(
    by_k: CircuitByK,
    *,
    n_nodes: int = 40,
    labels: Labels | None = None,
    theme: Theme = "light",
    title: str | None = None,
) -> Any:
    """Draw which nodes are in the circuit of which k, as a bar for every node.

    ::

        by_k = sle.circuits.circuit_by_k(effects, [2, 4, 8, 16, 32], budget=30)
        plot_circuit_by_k(by_k, labels=sle.labels(sae, [981, 4]))

    Rows are nodes, those of a site sorted by the rank at which they are born, and
    columns are values of k. A cell is blank where the node is not among the features at
    that k, pale where it is and the circuit goes without it, and blue or orange where
    the circuit has it and it raises or lowers the metric.

    Args:
        by_k: what ``circuit_by_k`` gave.
        n_nodes: how many nodes to draw: those of the largest absolute score at any k.
        labels: what features stand for: texts by feature, where there is one site; by
            site and then by feature; or by pairs of site and feature.
        theme: ``"light"`` or ``"dark"``.
        title: heading; None says how many of the nodes there are.

    Returns:
        A matplotlib figure, with a panel for every site that has nodes.

    Raises:
        InvalidArgument: not circuits at several k, or invalid options.
    """
    if not isinstance(by_k, CircuitByK):
        raise InvalidArgument(
            "plot_circuit_by_k draws what circuits.circuit_by_k returns; got an object "
            f"of type {type(by_k).__name__}"
        )
    n_nodes = arguments.positive_int(n_nodes, "n_nodes")
    palette = checked_theme(theme)
    panels, n_all = _panels(by_k, n_nodes, labels)
    ks = list(by_k.circuits)

    figure_module = require("matplotlib.figure", "Plotting")
    n_rows = sum(len(panel.names) for panel in panels)
    figure = figure_module.Figure(
        figsize=(
            max(6.0, 3.4 + _COLUMN * len(ks)),
            1.7 + _ROW * n_rows + 0.4 * len(panels),
        ),
        layout="constrained",
        facecolor=palette.paper,
    )
    all_axes = figure.subplots(
        len(panels),
        1,
        sharex=True,
        squeeze=False,
        height_ratios=[len(panel.names) for panel in panels],
    )
    for axes, panel in zip(all_axes.flat, panels, strict=True):
        _draw(axes, panel, palette)
    bottom = all_axes[-1, 0]
    bottom.set_xticks(range(len(ks)), list(map(str, ks)))
    bottom.set_xlabel("k, features per token")

    _legend(figure, palette)
    figure.suptitle(
        title or f"Circuits at every k: {n_rows} of {n_all} nodes",
        color=palette.ink,
        fontsize=12,
        parse_math=False,
    )
    return figure


@dataclass(frozen=True)
class _Panel:
    """The nodes of a site.

    Attributes:
        site: its name.
        names: of the nodes, from the top.
        scores: in the circuit of each k, ``[nodes, ks]``; NaN where it is not in it.
        is_active: whether it is a node at that k at all.
    """

    site: str
    names: list[str]
    scores: numpy.ndarray
    is_active: numpy.ndarray


def _panels(
    by_k: CircuitByK,
    n_nodes: int,
    labels: Labels | None,
) -> tuple[list[_Panel], int]:
    """The nodes to draw by site, and how many there are in all."""
    table = by_k.table()
    scores = numpy.full((len(table), len(by_k.circuits)), numpy.nan)
    number_of = {key: number for number, key in enumerate(_keys(table))}
    for column, circuit in enumerate(by_k.circuits.values()):
        numbers = [number_of[key] for key in _keys(circuit.nodes)]
        scores[numbers, column] = circuit.nodes["score"]
    ks = numpy.array(list(by_k.circuits))
    is_active = table["rank"].to_numpy()[:, None] < ks

    largest = numpy.nanmax(numpy.abs(scores), axis=1)
    is_drawn = numpy.zeros(len(table), dtype=bool)
    is_drawn[(-largest).argsort(kind="stable")[:n_nodes]] = True

    circuit = by_k.circuits[ks.max()]
    sites = [site for site in circuit.ks if (table["site"] == site).any()]
    texts = labels_by_site(labels, list(circuit.ks))
    panels = []
    for site in sites:
        (of_site,) = ((table["site"] == site).to_numpy() & is_drawn).nonzero()
        if not len(of_site):
            continue
        of_site = of_site[table["rank"].to_numpy()[of_site].argsort(kind="stable")]
        nodes = table.iloc[of_site]
        names = [
            _name(feature, position, texts.get(site, {}).get(feature))
            for feature, position in zip(
                nodes["feature"], nodes["position"], strict=True
            )
        ]
        panels.append(_Panel(site, names, scores[of_site], is_active[of_site]))
    return panels, len(table)


def _keys(nodes: Any) -> list[tuple[Any, ...]]:
    return list(nodes[_NODE].itertuples(index=False, name=None))


def _name(
    feature: int,
    position: Any,
    label: str | None,
) -> str:
    """A node in a word or two, such as ``981 Paris @ 4``."""
    name = "error" if feature == _ERROR else str(feature)
    if label:
        name = f"{name} {label_text(label, 28)}"
    return name if position == "all" else f"{name} @ {position}"


def _draw(
    axes: Any,
    panel: _Panel,
    palette: Palette,
) -> None:
    colours = require("matplotlib.colors", "Plotting")
    cells = numpy.empty((*panel.scores.shape, 4))
    cells[:] = colours.to_rgba(palette.paper)
    cells[panel.is_active] = colours.to_rgba(palette.line)
    cells[panel.scores >= 0] = colours.to_rgba(palette.positive)
    cells[panel.scores < 0] = colours.to_rgba(palette.negative)
    axes.imshow(cells, aspect="auto", interpolation="none")

    paint_axes(axes, palette)
    n_rows, n_columns = panel.scores.shape
    axes.set_yticks(range(n_rows), panel.names, fontsize=8, parse_math=False)
    # Paper between the rows, so that each is a bar.
    axes.hlines(
        numpy.arange(n_rows - 1) + 0.5,
        -0.5,
        n_columns - 0.5,
        color=palette.paper,
        linewidth=2,
    )
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(
        panel.site,
        loc="left",
        fontsize=9,
        color=palette.muted,
        parse_math=False,
    )


def _legend(figure: Any, palette: Palette) -> None:
    patches = require("matplotlib.patches", "Plotting")
    meanings = {
        palette.positive: "in the circuit, raises the metric",
        palette.negative: "in the circuit, lowers it",
        palette.line: "active, not in the circuit",
    }
    handles: Sequence[Any] = [
        patches.Patch(color=colour, label=text) for colour, text in meanings.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        columnspacing=1.2,
        handlelength=1.2,
        frameon=False,
        labelcolor=palette.ink,
        fontsize=8,
    )
