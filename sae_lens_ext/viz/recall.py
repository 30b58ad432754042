"""How well the kernels of linear attention recall, as a figure."""

from typing import Any

from sae_lens_ext._optional import require

_INK = "#1f2430"
_BLUE = "#2563eb"
_GRID = "#e5e7eb"

# Kernels stand 1 apart; the models of one of them share this width.
_SPREAD = 0.5


def plot_recall(results: Any, *, title: str = "") -> Any:
    """Draw the accuracy of every model, by kernel, with a bar at the mean.

    Args:
        results: the table of ``at_best_lr``, with columns ``kernel``, ``lr`` (one per
            kernel) and ``accuracy``.
        title: title of the figure.

    Returns:
        A matplotlib figure.
    """
    figure_module = require("matplotlib.figure", "Plotting")
    kernels = list(dict.fromkeys(results["kernel"]))
    width = 1.6 * len(kernels) + 2.4
    figure = figure_module.Figure(
        figsize=(width, 4), layout="constrained", facecolor="white"
    )
    axes = figure.subplots()

    labels = []
    for x, kernel in enumerate(kernels):
        of_kernel = results[results["kernel"] == kernel]
        _draw_kernel(axes, x, sorted(of_kernel["accuracy"]))
        labels.append(f"{kernel}\nlr {of_kernel['lr'].iloc[0]:g}")

    axes.set_xticks(range(len(kernels)), labels)
    axes.set(
        ylabel="share of questions answered",
        title=title,
        xlim=(-0.6, len(kernels) - 0.2),
        ylim=(-0.02, 1.05),
    )
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def _draw_kernel(axes: Any, x: int, accuracies: list[float]) -> None:
    """A dot per model around ``x``, and the mean with its number."""
    # Side by side, so that models of equal accuracy do not look like one.
    step = _SPREAD / max(len(accuracies), 10)
    middle = (len(accuracies) - 1) / 2
    xs = [x + step * (i - middle) for i in range(len(accuracies))]
    axes.plot(xs, accuracies, "o", color=_BLUE, alpha=0.6)

    mean = sum(accuracies) / len(accuracies)
    axes.hlines(mean, x - 0.3, x + 0.3, color=_INK, linewidth=2)
    axes.annotate(f"{mean:.2f}", (x + 0.32, mean), va="center", color=_INK, fontsize=9)
