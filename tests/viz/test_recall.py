"""The figure of recall shows every model and the mean of each kernel."""

import quick_recall

from sae_lens_ext.experiments.recall import at_best_lr
from sae_lens_ext.viz.recall import plot_recall


def test_figure_shows_every_model_and_the_mean():
    best = at_best_lr(quick_recall.results())
    (axes,) = plot_recall(best, title="three pairs").axes
    assert [sorted(line.get_ydata()) for line in axes.lines] == [
        [0.3, 0.5],
        [0.85, 0.95, 0.99],
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "based\nlr 0.01",
        "rebased\nlr 0.001",
    ]
    assert [text.get_text() for text in axes.texts] == ["0.40", "0.93"]
    assert axes.get_title() == "three pairs"
