"""The frontier: how much each number of features buys, for one SAE or several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.viz.theme import Palette, Theme, checked_theme, paint_axes

_LINE_STYLES = ("-", "--", ":")

_ENDS = {"ce_bare": "model as it is", "ce_mean": "site replaced by its mean"}
_COLUMNS = ("k", "l0", "fvu", "ce")
# Nats; ends of two tables that are closer are drawn as one line.
_SAME_END = 1e-3


def plot_frontier(
    sweep: Any,
    *,
    theme: Theme = "light",
    title: str | None = None,
) -> Any:
    """Plot reconstruction error and the spliced model's loss against k.

    ::

        plot_frontier({"hierarchical": sweep, "JumpReLU": other_sweep})

    A row whose k is None (every active feature of an SAE that was not trained at a k)
    stands at its mean number of active features, with an open marker.

    Args:
        sweep: a table of ``sweep_k``; or several by name, drawn into the same panels,
            which should be of the same model, site and tokens.
        theme: ``"light"`` or ``"dark"``.
        title: heading of both panels; None names the site.

    Returns:
        A matplotlib figure.

    Raises:
        InvalidArgument: there is no table, one has lost its attributes, or there is no
            such theme.
    """
    palette = checked_theme(theme)
    lines = _lines(sweep, palette)
    matplotlib_figure = require("matplotlib.figure", "Plotting")
    figure = matplotlib_figure.Figure(
        figsize=(10, 4), layout="constrained", facecolor=palette.paper
    )
    left, right = figure.subplots(1, 2)

    _plot_error(left, lines, palette)
    _plot_loss(right, lines, palette)
    ticks = sorted({k for line in lines for k in line.ks})
    for axes in (left, right):
        _style(axes, ticks, palette)
    if lines[0].name is not None:
        left.legend(frameon=False, labelcolor=palette.ink, fontsize=9)

    sites = list(dict.fromkeys(site for line in lines for site in line.sites))
    subject = "One SAE" if len(lines) == 1 else f"{len(lines)} SAEs"
    figure.suptitle(
        title or f"{subject} at every k: {', '.join(sites)}",
        color=palette.ink,
        fontsize=13,
    )
    return figure


@dataclass(frozen=True)
class _Line:
    """A table of ``sweep_k`` and how it is drawn."""

    name: str | None
    table: Any
    colours: tuple[str, ...]
    style: str

    @property
    def sites(self) -> list[str]:
        """Where the SAEs of the table are spliced."""
        return self.table.attrs["sites"]

    @property
    def ks(self) -> list[int]:
        """The values of k that are numbers."""
        return [int(k) for k in self.table["k"].dropna()]

    def points(self, column: str) -> list[tuple[float, float]]:
        """The numbers of a column at every k, from left to right."""
        rows = self.table[self.table["k"].notna()]
        return sorted(_pairs(rows["k"], rows[column]))

    def open_points(self, column: str) -> list[tuple[float, float]]:
        """Those of rows without a k, at their mean number of features."""
        rows = self.table[self.table["k"].isna()]
        return _pairs(rows["l0"], rows[column])

    def draw(
        self,
        axes: Any,
        column: str,
        colour: str,
        paper: str,
    ) -> None:
        """Draw a column into a panel, with points without a k left open."""
        points = self.points(column)
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker="o",
            linestyle=self.style,
            color=colour,
            linewidth=2,
            label=self.name,
        )
        for x, y in self.open_points(column):
            axes.plot([x], [y], "o", color=colour, markerfacecolor=paper, zorder=3)


def _lines(sweep: Any, palette: Palette) -> list[_Line]:
    """The tables to draw, checked."""
    if not isinstance(sweep, Mapping):
        _check_table(sweep, "this table")
        return [_Line(None, sweep, palette.lines[:2], "-")]
    if not sweep:
        raise InvalidArgument("no table to plot; give at least one, by name")

    lines = []
    for number, (name, table) in enumerate(sweep.items()):
        _check_table(table, f"the table {name!r}")
        colour = palette.lines[number % len(palette.lines)]
        style = _LINE_STYLES[number // len(palette.lines) % len(_LINE_STYLES)]
        lines.append(_Line(str(name), table, (colour, colour), style))
    return lines


def _check_table(table: Any, name: str) -> None:
    attributes = getattr(table, "attrs", None)
    if attributes is None:
        raise InvalidArgument(
            f"{name} must be what sweep_k returned; got an object of type "
            f"{type(table).__name__}"
        )
    for end in (*_ENDS, "sites"):
        if end not in attributes:
            raise InvalidArgument(
                f"{name} has no attrs[{end!r}]: a table that was read from a CSV "
                "file has lost the ends of its sweep, so plot what sweep_k returned"
            )
    columns = getattr(table, "columns", ())
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise InvalidArgument(
            f"{name} has no column {missing[0]!r}; a plot needs "
            f"{', '.join(_COLUMNS)}: plot what sweep_k returned, or some of its rows"
        )
    if not len(table):
        raise InvalidArgument(f"{name} has no rows; give at least one value of k")


def _pairs(xs: Any, ys: Any) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]


def _plot_error(
    axes: Any,
    lines: list[_Line],
    palette: Palette,
) -> None:
    highest = 1.0
    for line in lines:
        line.draw(axes, "fvu", line.colours[0], palette.paper)
        highest = max(highest, float(line.table["fvu"].max()))
    axes.set(title="Reconstruction error", ylabel="fraction of variance unexplained")
    axes.set_ylim(0, highest * 1.05)
    # The numbers of several lines would lie on each other.
    if len(lines) > 1:
        return
    for k, error in lines[0].points("fvu"):
        axes.annotate(
            f"{error:.2f}",
            (k, error),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            color=palette.ink,
            fontsize=9,
        )


def _plot_loss(
    axes: Any,
    lines: list[_Line],
    palette: Palette,
) -> None:
    xs = [x for line in lines for x, _ in [*line.points("ce"), *line.open_points("ce")]]
    # Losses fall from the upper left to the lower right: labels go where they are not.
    ends = {"ce_bare": (min(xs), "left"), "ce_mean": (max(xs), "right")}
    for end, style in zip(_ENDS, ("--", ":"), strict=True):
        drawn: list[float] = []
        for line in lines:
            height = line.table.attrs[end]
            if any(abs(height - other) <= _SAME_END for other in drawn):
                continue
            drawn.append(height)
            axes.axhline(height, color=palette.muted, linestyle=style, linewidth=1)
    for line in lines:
        line.draw(axes, "ce", line.colours[1], palette.paper)
    for end, label in _ENDS.items():
        axes.annotate(
            label,
            (ends[end][0], lines[0].table.attrs[end]),
            xytext=(0, 4),
            textcoords="offset points",
            ha=ends[end][1],
            color=palette.muted,
            fontsize=9,
        )
    axes.set(
        title="What the spliced model predicts", ylabel="cross-entropy (nats per token)"
    )
    axes.margins(y=0.12)


def _style(
    axes: Any,
    ks: list[int],
    palette: Palette,
) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlabel("k, features per token")
    axes.grid(color=palette.line, linewidth=0.8)
    axes.set_axisbelow(True)
    paint_axes(axes, palette)
