"""The frontier: how much a number of features buys."""

from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument

_INK, _MUTED, _BLUE, _ORANGE, _GRID = (
    "#1f2430",
    "#6b7280",
    "#2563eb",
    "#d97706",
    "#e5e7eb",
)


def plot_frontier(sweep: Any, *, title: str | None = None) -> Any:
    """A matplotlib figure of a ``sweep_k`` table: error of the reconstruction, and what the model keeps, against k.

    Args:
        sweep: what ``sweep_k`` returned.
        title: above both panels; None names the site.
    """
    lost = [name for name in ("ce_bare", "ce_mean", "sites") if name not in sweep.attrs]
    if lost:
        raise InvalidArgument(
            f"this table has no attrs[{lost[0]!r}]: a table that was read from a CSV file has lost the ends of its sweep, so plot what "
            "sweep_k returned"
        )
    figure_module = require("matplotlib.figure", "Plotting")
    figure = figure_module.Figure(
        figsize=(10, 4), layout="constrained", facecolor="white"
    )
    left, right = figure.subplots(1, 2)
    ks = sweep["k"].tolist()
    left.plot(ks, sweep["fvu"], "o-", color=_BLUE, linewidth=2)
    left.set(title="Reconstruction error", ylabel="fraction of variance unexplained")
    left.set_ylim(0, max(1.0, sweep["fvu"].max()) * 1.05)
    right.axhline(sweep.attrs["ce_bare"], color=_MUTED, linestyle="--", linewidth=1)
    right.axhline(sweep.attrs["ce_mean"], color=_MUTED, linestyle=":", linewidth=1)
    right.plot(ks, sweep["ce"], "o-", color=_ORANGE, linewidth=2)
    for end, words in (
        ("ce_bare", "model as it is"),
        ("ce_mean", "site replaced by its mean"),
    ):
        right.annotate(
            words,
            (ks[0], sweep.attrs[end]),
            xytext=(0, 4),
            textcoords="offset points",
            color=_MUTED,
            fontsize=9,
        )
    right.set(
        title="What the spliced model predicts", ylabel="cross-entropy (nats per token)"
    )
    right.margins(y=0.12)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.minorticks_off()
        axes.set_xlabel("k, features per token")
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.title.set_color(_INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for k, error in zip(ks, sweep["fvu"], strict=True):
        left.annotate(
            f"{error:.2f}",
            (k, error),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            color=_INK,
            fontsize=9,
        )
    figure.suptitle(
        title or f"One SAE at every k: {', '.join(sweep.attrs['sites'])}",
        color=_INK,
        fontsize=13,
    )
    return figure
