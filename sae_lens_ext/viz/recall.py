"""How well kernels of linear attention recall."""

from typing import Any

from sae_lens_ext._optional import require

_INK, _BLUE, _GRID = "#1f2430", "#2563eb", "#e5e7eb"


def plot_recall(runs: Any, *, title: str = "") -> Any:
    """A matplotlib figure of the accuracy of every run, by kernel; a bar marks the mean.

    Args:
        runs: what ``at_best_lr`` returned: columns ``kernel``, ``lr`` (one for each kernel) and ``accuracy``.
        title: above it.
    """
    figure_module = require("matplotlib.figure", "Plotting")
    kernels = list(dict.fromkeys(runs["kernel"]))
    figure = figure_module.Figure(
        figsize=(1.6 * len(kernels) + 2.4, 4), layout="constrained", facecolor="white"
    )
    axes = figure.subplots()
    labels = []
    for place, kernel in enumerate(kernels):
        of_kernel = runs[runs["kernel"] == kernel]
        accuracies = sorted(of_kernel["accuracy"])
        # Side by side, so that runs of equal accuracy are seen to be several.
        step = 0.5 / max(len(accuracies), 10)
        places = [
            place + step * (i - (len(accuracies) - 1) / 2)
            for i in range(len(accuracies))
        ]
        axes.plot(places, accuracies, "o", color=_BLUE, alpha=0.6)
        mean = sum(accuracies) / len(accuracies)
        axes.hlines(mean, place - 0.3, place + 0.3, color=_INK, linewidth=2)
        axes.annotate(
            f"{mean:.2f}", (place + 0.32, mean), va="center", color=_INK, fontsize=9
        )
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
