"""The frontier: how much each number of features buys."""

from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument

_INK = "#1f2430"
_MUTED = "#6b7280"
_BLUE = "#2563eb"
_ORANGE = "#d97706"
_GRID = "#e5e7eb"

_ENDS = {"ce_bare": "model as it is", "ce_mean": "site replaced by its mean"}


def plot_frontier(sweep: Any, *, title: str | None = None) -> Any:
    """Plot reconstruction error and the spliced model's loss against k.

    Args:
        sweep: a table of ``sweep_k``.
        title: heading of both panels; None names the site.

    Returns:
        A matplotlib figure.

    Raises:
        InvalidArgument: the table has lost its attributes.
    """
    for name in (*_ENDS, "sites"):
        if name not in sweep.attrs:
            raise InvalidArgument(
                f"this table has no attrs[{name!r}]: a table that was read from a CSV "
                "file has lost the ends of its sweep, so plot what sweep_k returned"
            )
    matplotlib_figure = require("matplotlib.figure", "Plotting")
    figure = matplotlib_figure.Figure(
        figsize=(10, 4), layout="constrained", facecolor="white"
    )
    left, right = figure.subplots(1, 2)
    ks = sweep["k"].tolist()

    _plot_error(left, ks, sweep["fvu"])
    _plot_loss(right, ks, sweep)
    for axes in (left, right):
        _style(axes, ks)
    figure.suptitle(
        title or f"One SAE at every k: {', '.join(sweep.attrs['sites'])}",
        color=_INK,
        fontsize=13,
    )
    return figure


def _plot_error(axes: Any, ks: list[int], fvu: Any) -> None:
    axes.plot(ks, fvu, "o-", color=_BLUE, linewidth=2)
    axes.set(title="Reconstruction error", ylabel="fraction of variance unexplained")
    axes.set_ylim(0, max(1.0, fvu.max()) * 1.05)
    for k, error in zip(ks, fvu, strict=True):
        axes.annotate(
            f"{error:.2f}",
            (k, error),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            color=_INK,
            fontsize=9,
        )


def _plot_loss(axes: Any, ks: list[int], sweep: Any) -> None:
    for end, style in zip(_ENDS, ("--", ":"), strict=True):
        axes.axhline(sweep.attrs[end], color=_MUTED, linestyle=style, linewidth=1)
    axes.plot(ks, sweep["ce"], "o-", color=_ORANGE, linewidth=2)
    for end, label in _ENDS.items():
        axes.annotate(
            label,
            (ks[0], sweep.attrs[end]),
            xytext=(0, 4),
            textcoords="offset points",
            color=_MUTED,
            fontsize=9,
        )
    axes.set(
        title="What the spliced model predicts", ylabel="cross-entropy (nats per token)"
    )
    axes.margins(y=0.12)


def _style(axes: Any, ks: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlabel("k, features per token")
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.title.set_color(_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
