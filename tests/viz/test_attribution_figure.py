"""Predicted against measured effects: every node at its numbers, on a fair scale."""

import numpy
import pandas
import pytest

import sae_lens_ext as sle
from sae_lens_ext.viz import plot_attribution

SITE = "blocks.1.hook_resid_post"


@pytest.fixture
def measured():
    return pandas.DataFrame(
        {
            "row": [0, 0, 0, 0],
            "site": [SITE] * 4,
            "position": [3, 3, 4, 4],
            "feature": [17, 5, 17, -1],
            "rank": [0, 1, 0, -1],
            "effect": [1.0, -0.5, 2.0, 0.25],
            "attribution": [1.1, -0.5, 3.0, 0.5],
        }
    )


def points_of(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return sorted(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_every_node_stands_at_its_prediction_and_measurement(measured):
    figure = plot_attribution(measured)
    (axes,) = figure.axes
    assert points_of(axes, "features") == [(-0.5, -0.5), (1.1, 1.0), (3.0, 2.0)]
    assert points_of(axes, "errors") == [(0.5, 0.25)]
    assert axes.get_xlim() == axes.get_ylim()
    (identity,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(identity.get_xdata()) == list(identity.get_ydata())

    r = measured[["effect", "attribution"]].corr().iloc[0, 1]
    expected = f"4 nodes, r = {r:.3f}, mean |difference| = {1.35 / 4:.3g}"
    assert figure.get_suptitle() == expected


def test_predictions_may_come_from_another_table(measured):
    predicted = measured.assign(effect=[2.0, 1.0, 0.0, -1.0]).iloc[::-1]
    extra = predicted.assign(feature=8)
    (axes,) = plot_attribution(measured, pandas.concat([predicted, extra])).axes
    assert points_of(axes, "features") == [(0.0, 2.0), (1.0, -0.5), (2.0, 1.0)]
    assert points_of(axes, "errors") == [(-1.0, 0.25)]


def test_the_nodes_farthest_from_the_line_are_named(measured, tmp_path):
    figure = plot_attribution(measured, n_named=2, labels={17: "costs $5 and $6"})
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.texts]
    assert names == ["17 costs $5 and $6 @ 4", "error @ 4"]
    figure.savefig(tmp_path / "attribution.png")


@pytest.mark.parametrize(("theme", "is_dark"), [("light", False), ("dark", True)])
def test_the_theme_is_the_chosen_one(measured, theme, is_dark):
    figure = plot_attribution(measured, theme=theme)
    assert (sum(figure.get_facecolor()[:3]) < 1) == is_dark


def test_one_node_has_no_correlation(measured):
    figure = plot_attribution(measured.head(1))
    assert figure.get_suptitle() == "1 nodes, mean |difference| = 0.1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: {"measured": table.head(0)}, "measured has no rows"),
        (lambda table: {"measured": [1]}, "measured must be a table"),
        (
            lambda table: {"measured": table.drop(columns="attribution")},
            "measured has no column 'attribution'",
        ),
        (
            lambda table: {"predicted": table.assign(position=9)},
            "4 of the 4 measured nodes are not in the predicted table",
        ),
        (lambda table: {"n_named": -1}, "n_named must be"),
        (lambda table: {"theme": "sepia"}, "theme must be one of light, dark"),
        (lambda table: {"labels": {"x": {1: "y"}}}, "labels are of x"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_arguments(measured, change, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        plot_attribution(**{"measured": measured, **change(measured)})


@pytest.mark.parametrize("column", ["effect", "attribution"])
def test_rejects_nan(measured, column):
    measured.loc[2, column] = numpy.nan
    with pytest.raises(sle.NonFinite, match="NaN or infinite"):
        plot_attribution(measured)
