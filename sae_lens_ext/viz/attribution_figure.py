"""Predicted effects of nodes against measured ones, as a figure."""

from typing import Any

import numpy

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._labels import Labels, labels_by_site
from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument, NonFinite
from sae_lens_ext.viz.graph_layout import label_text
from sae_lens_ext.viz.theme import Palette, Theme, checked_theme, paint_axes

_KEY = ["row", "site", "position", "feature"]
_ERROR = -1


def plot_attribution(
    measured: Any,
    predicted: Any = None,
    *,
    labels: Labels | None = None,
    n_named: int = 4,
    theme: Theme = "light",
    title: str | None = None,
) -> Any:
    """Draw what attribution predicts of each node against what an ablation measures.

    ::

        checked = sle.circuits.effects(..., method="ablation", k=8, budget=50)
        plot_attribution(checked.at())
        plot_attribution(checked.at(), integrated.at(k=8))

    On the line, prediction and measurement agree. The heading has the number of nodes,
    their correlation (Pearson's r) and the mean absolute difference, in units of the
    metric.

    Args:
        measured: a table of ``MeasuredEffects.at``.
        predicted: a table of ``Effects.at`` at the same k, such as of integrated
            gradients; None takes the attribution in the table of measured effects.
        labels: what features stand for: texts by feature, where there is one site; by
            site and then by feature; or by pairs of site and feature.
        n_named: how many nodes to name: those farthest from the line.
        theme: ``"light"`` or ``"dark"``.
        title: heading; None gives the numbers above.

    Returns:
        A matplotlib figure.

    Raises:
        InvalidArgument: tables of another kind, without nodes, or of other nodes; or
            invalid options.
        NonFinite: an effect is NaN or infinite.
    """
    n_named = arguments.integer(n_named, "n_named", at_least=0)
    palette = checked_theme(theme)
    nodes, x, y = _pairs(measured, predicted)
    texts = labels_by_site(labels, list(dict.fromkeys(nodes["site"])))

    figure_module = require("matplotlib.figure", "Plotting")
    figure = figure_module.Figure(
        figsize=(5.6, 5.4), layout="constrained", facecolor=palette.paper
    )
    axes = figure.subplots()
    _draw_nodes(axes, nodes, x, y, palette)
    _draw_line(axes, x, y, palette)

    farthest = (-numpy.abs(y - x)).argsort(kind="stable")[:n_named]
    middle = sum(axes.get_xlim()) / 2
    for number in farthest.tolist():
        node = nodes.iloc[number]
        label = texts.get(node["site"], {}).get(node["feature"])
        # Names run towards the middle, where there is room.
        is_left = x[number] < middle
        axes.annotate(
            _name(node, label),
            (x[number], y[number]),
            xytext=(5 if is_left else -5, 5),
            textcoords="offset points",
            ha="left" if is_left else "right",
            color=palette.ink,
            fontsize=8,
            parse_math=False,
        )
    paint_axes(axes, palette)
    axes.set(xlabel="predicted effect", ylabel="measured effect")
    axes.grid(color=palette.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, labelcolor=palette.ink, fontsize=9)
    figure.suptitle(
        title or _summary(x, y), color=palette.ink, fontsize=11, parse_math=False
    )
    return figure


def _pairs(
    measured: Any,
    predicted: Any,
) -> tuple[Any, numpy.ndarray, numpy.ndarray]:
    """The nodes, what is predicted of each, and what is measured."""
    own = ["effect"] if predicted is not None else ["effect", "attribution"]
    _check_table(measured, "measured", [*_KEY, *own], "MeasuredEffects.at()")
    if predicted is None:
        x = measured["attribution"]
    else:
        _check_table(predicted, "predicted", [*_KEY, "effect"], "Effects.at(k)")
        known = dict(zip(_keys(predicted), predicted["effect"], strict=True))
        keys = _keys(measured)
        missing = [key for key in keys if key not in known]
        if missing:
            raise InvalidArgument(
                f"{len(missing)} of the {len(keys)} measured nodes are not in the "
                f"predicted table, the first of them {missing[0]}: take both tables "
                "at the same k, of the same rows"
            )
        x = [known[key] for key in keys]
    x = numpy.asarray(x, dtype=numpy.float64)
    y = measured["effect"].to_numpy(dtype=numpy.float64)
    for name, values in (("predicted", x), ("measured", y)):
        if not numpy.isfinite(values).all():
            raise NonFinite(f"a {name} effect is NaN or infinite, which has no place")
    return measured, x, y


def _check_table(
    table: Any,
    name: str,
    needed: list[str],
    source: str,
) -> None:
    columns = getattr(table, "columns", None)
    if columns is None:
        raise InvalidArgument(
            f"{name} must be a table, such as {source} returns; got an object of type "
            f"{type(table).__name__}"
        )
    missing = [column for column in needed if column not in columns]
    if missing:
        raise InvalidArgument(
            f"{name} has no column {missing[0]!r}: pass what {source} returns"
        )
    if not len(table):
        raise InvalidArgument(f"{name} has no rows; give at least one node")


def _keys(table: Any) -> list[tuple[Any, ...]]:
    return list(table[_KEY].itertuples(index=False, name=None))


def _draw_nodes(
    axes: Any,
    nodes: Any,
    x: numpy.ndarray,
    y: numpy.ndarray,
    palette: Palette,
) -> None:
    is_error = (nodes["feature"] == _ERROR).to_numpy()
    kinds = (
        ("features", ~is_error, "o", palette.positive),
        ("errors", is_error, "D", palette.negative),
    )
    for label, mask, marker, colour in kinds:
        if mask.any():
            axes.plot(
                x[mask],
                y[mask],
                marker,
                color=colour,
                alpha=0.75,
                ms=5,
                label=label,
            )


def _draw_line(
    axes: Any,
    x: numpy.ndarray,
    y: numpy.ndarray,
    palette: Palette,
) -> None:
    """The line on which both are equal, over all points and 0."""
    both = numpy.concatenate([x, y, [0.0]])
    margin = 0.06 * float(numpy.ptp(both)) or 1.0
    ends = [float(both.min()) - margin, float(both.max()) + margin]
    axes.plot(ends, ends, "--", color=palette.muted, linewidth=1, zorder=1)
    axes.set(xlim=ends, ylim=ends, aspect="equal")


def _name(node: Any, label: str | None) -> str:
    name = "error" if node["feature"] == _ERROR else str(node["feature"])
    if label:
        name = f"{name} {label_text(label)}"
    return f"{name} @ {node['position']}"


def _summary(x: numpy.ndarray, y: numpy.ndarray) -> str:
    parts = [f"{len(x)} nodes"]
    # The correlation with a constant does not exist.
    if len(x) > 1 and numpy.ptp(x) > 0 and numpy.ptp(y) > 0:
        parts.append(f"r = {numpy.corrcoef(x, y)[0, 1]:.3f}")
    parts.append(f"mean |difference| = {numpy.abs(y - x).mean():.3g}")
    return ", ".join(parts)
