"""What circuits of growing size are worth, beside their controls, as a figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.viz.theme import Palette, Theme, checked_theme, paint_axes

_CIRCUIT = "circuit"
_COLUMNS = (
    "nodes",
    "budget",
    "n_nodes",
    "faithfulness",
    "low",
    "high",
    "completeness",
    "completeness_low",
    "completeness_high",
)
_LINE_STYLES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


def plot_faithfulness(
    table: Any,
    *,
    theme: Theme = "light",
    title: str | None = None,
) -> Any:
    """Draw the faithfulness and completeness of circuits against their size.

    ::

        result = circuit.faithfulness(model, pairs, metric=metric)
        plot_faithfulness(result.table())
        plot_faithfulness({"k=8": at_8.table(), "k=64": at_64.table()})

    A line for the circuit and one for each control, with its band where there is one.
    The dashed lines are the model as it is (1) and the run without any node (0).

    Args:
        table: a table of ``Faithfulness.table``; or several by name.
        theme: ``"light"`` or ``"dark"``.
        title: heading; None gives none.

    Returns:
        A matplotlib figure with two panels.

    Raises:
        InvalidArgument: there is no table, or one of another kind or without rows; or
            there is no such theme.
    """
    palette = checked_theme(theme)
    curves = _curves(table, palette)

    figure_module = require("matplotlib.figure", "Plotting")
    figure = figure_module.Figure(
        figsize=(10, 4.4), layout="constrained", facecolor=palette.paper
    )
    left, right = figure.subplots(1, 2)
    panels = (
        (left, "faithfulness", ("low", "high"), "With these nodes alone"),
        (
            right,
            "completeness",
            ("completeness_low", "completeness_high"),
            "With all nodes but these",
        ),
    )
    for axes, column, band, heading in panels:
        for curve in curves:
            curve.draw(axes, column, band)
        _style(axes, curves, column, palette)
        axes.set_title(heading, fontsize=11)
        axes.set_ylabel(column)
    # Inside of a panel it would cover curves.
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(4, len(curves)),
        frameon=False,
        labelcolor=palette.ink,
        fontsize=9,
    )
    if title is not None:
        figure.suptitle(title, color=palette.ink, fontsize=13, parse_math=False)
    return figure


@dataclass(frozen=True)
class _Curve:
    """The circuits of one kind of nodes, and how they are drawn."""

    name: str
    rows: Any
    colour: str
    style: Any
    width: float

    def draw(self, axes: Any, column: str, band: tuple[str, str]) -> None:
        """Draw a column into a panel, with its band where that is known."""
        x = self.rows["n_nodes"].to_numpy(dtype=float)
        axes.plot(
            x,
            self.rows[column].to_numpy(dtype=float),
            marker="o",
            markersize=4,
            linestyle=self.style,
            linewidth=self.width,
            color=self.colour,
            label=self.name,
        )
        low, high = (self.rows[name].to_numpy(dtype=float) for name in band)
        is_known = numpy.isfinite(low) & numpy.isfinite(high)
        if is_known.any():
            axes.fill_between(
                x,
                low,
                high,
                where=is_known,
                color=self.colour,
                alpha=0.12,
                linewidth=0,
            )


def _curves(table: Any, palette: Palette) -> list[_Curve]:
    """The curves of all tables: a colour for each kind, or each of several tables."""
    tables = table if isinstance(table, Mapping) else {None: table}
    if not tables:
        raise InvalidArgument("no table to plot; give at least one, by name")

    for name, rows in tables.items():
        _check_table(rows, "this table" if name is None else f"the table {name!r}")
    # A kind has one line style in all tables.
    kinds = list(dict.fromkeys(kind for rows in tables.values() for kind in rows.nodes))

    curves = []
    for number, (name, rows) in enumerate(tables.items()):
        for kind, of_kind in rows.groupby("nodes", sort=False):
            kind_number = kinds.index(kind)
            is_alone = name is None
            place = kind_number if is_alone else number
            style = 0 if is_alone else kind_number
            is_circuit = kind == _CIRCUIT
            curves.append(
                _Curve(
                    name=_name(name, kind),
                    rows=of_kind.sort_values("n_nodes"),
                    colour=palette.lines[place % len(palette.lines)],
                    style=_LINE_STYLES[style % len(_LINE_STYLES)],
                    width=2.4 if is_circuit else 1.4,
                )
            )
    return curves


def _name(table: Any, kind: str) -> str:
    """What the legend calls a kind of nodes of a table."""
    if table is None:
        return kind
    return str(table) if kind == _CIRCUIT else f"{table}: {kind}"


def _check_table(table: Any, name: str) -> None:
    columns = getattr(table, "columns", None)
    if columns is None:
        raise InvalidArgument(
            f"{name} must be what Faithfulness.table() returns; got an object of type "
            f"{type(table).__name__}"
        )
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise InvalidArgument(
            f"{name} has no column {missing[0]!r}: pass what Faithfulness.table() "
            "returns, or some of its rows"
        )
    if not len(table):
        raise InvalidArgument(f"{name} has no rows; give at least one circuit")


def _style(
    axes: Any,
    curves: list[_Curve],
    column: str,
    palette: Palette,
) -> None:
    for height in (0, 1):
        axes.axhline(height, color=palette.muted, linestyle="--", linewidth=1)
    # Bands of a few prompts can be far wider than what they are around.
    heights = numpy.concatenate([curve.rows[column].to_numpy() for curve in curves])
    known = heights[numpy.isfinite(heights)].tolist()
    low = min([0.0, *known])
    high = max([1.0, *known])
    margin = 0.08 * (high - low)
    axes.set_ylim(low - margin, high + margin)

    ticks = sorted({int(n) for curve in curves for n in curve.rows["budget"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_xlabel("nodes")
    axes.grid(color=palette.line, linewidth=0.8)
    axes.set_axisbelow(True)
    paint_axes(axes, palette)
