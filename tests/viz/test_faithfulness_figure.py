"""Faithfulness and completeness by size: every circuit at its numbers."""

import numpy
import pandas
import pytest

import sae_lens_ext as sle
from sae_lens_ext.circuits.faithfulness.result import Faithfulness, Measured
from sae_lens_ext.viz import plot_faithfulness


def table_of(**kinds):
    """A table with the faithfulness of circuits of 1, 2, 4, ... nodes by kind."""
    rows = []
    for kind, values in kinds.items():
        for number, value in enumerate(values):
            rows.append(
                {
                    "nodes": kind,
                    "budget": 2**number,
                    "n_nodes": float(2**number),
                    "faithfulness": value,
                    "low": value - 0.1,
                    "high": value + 0.2,
                    "completeness": 1 - value,
                    "completeness_low": 0.9 - value,
                    "completeness_high": 1.2 - value,
                }
            )
    return pandas.DataFrame(rows)


@pytest.fixture
def table():
    return table_of(circuit=[0.25, 0.5, 1.0], random=[0.0, 0.125, 0.0])


def points_of(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def bands_of(axes):
    """The lowest and highest number of every band."""
    extents = [band.get_datalim(axes.transData) for band in axes.collections]
    return [(extent.y0, extent.y1) for extent in extents]


def test_every_circuit_stands_at_its_numbers(table):
    left, right = plot_faithfulness(table.iloc[::-1]).axes
    assert points_of(left, "circuit") == [(1, 0.25), (2, 0.5), (4, 1.0)]
    assert points_of(left, "random") == [(1, 0.0), (2, 0.125), (4, 0.0)]
    assert points_of(right, "circuit") == [(1, 0.75), (2, 0.5), (4, 0.0)]
    assert [text.get_text() for text in left.get_xticklabels()] == ["1", "2", "4"]


def test_bands_are_those_of_the_table(table):
    left, right = plot_faithfulness(table).axes
    assert numpy.allclose(bands_of(left), [(0.15, 1.2), (-0.1, 0.325)])
    assert numpy.allclose(bands_of(right), [(-0.1, 0.95), (0.775, 1.2)])


def test_unknown_bands_are_left_out(table):
    columns = ["low", "high", "completeness_low", "completeness_high"]
    left, right = plot_faithfulness(
        table.assign(**dict.fromkeys(columns, numpy.nan))
    ).axes
    assert bands_of(left) == bands_of(right) == []


def test_a_control_far_below_zero_is_in_the_picture(table):
    low = table_of(coordinates=[-6.0, 2.0])
    left, _ = plot_faithfulness(pandas.concat([table, low])).axes
    assert left.get_ylim()[0] < -6
    assert left.get_ylim()[1] > 2


def test_several_tables_are_told_apart_by_colour_and_kinds_by_line(table, tmp_path):
    figure = plot_faithfulness({"k=8": table, "costs $5 and $6": table})
    left, _ = figure.axes
    lines = {line.get_label(): line for line in left.lines}
    assert lines["k=8"].get_color() == lines["k=8: random"].get_color()
    assert lines["k=8"].get_color() != lines["costs $5 and $6"].get_color()
    assert lines["k=8"].get_linestyle() != lines["k=8: random"].get_linestyle()
    figure.savefig(tmp_path / "faithfulness.png")


def test_draws_what_a_test_of_a_circuit_returns(tmp_path):
    measured = Measured(
        kind="circuit",
        draw=0,
        budget=3,
        n_nodes=3,
        n_errors=1,
        rows=(0,),
        metric_model=numpy.array([4.0]),
        metric_empty=numpy.array([0.0]),
        metric=numpy.array([3.0]),
        metric_complement=numpy.array([1.0]),
    )
    result = Faithfulness("zero", (measured,))
    figure = plot_faithfulness(result.table(), title="One circuit")
    left, right = figure.axes
    assert points_of(left, "circuit") == [(3, 0.75)]
    assert points_of(right, "circuit") == [(3, 0.25)]
    assert figure.get_suptitle() == "One circuit"


@pytest.mark.parametrize(("theme", "is_dark"), [("light", False), ("dark", True)])
def test_the_theme_is_the_chosen_one(table, theme, is_dark):
    figure = plot_faithfulness(table, theme=theme)
    assert (sum(figure.get_facecolor()[:3]) < 1) == is_dark


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.head(0), "this table has no rows"),
        (lambda table: [1], "this table must be what Faithfulness.table"),
        (lambda table: table.drop(columns="low"), "this table has no column 'low'"),
        (lambda table: {"k=8": 3}, "the table 'k=8' must be what"),
        (lambda table: {}, "no table to plot"),
    ],
)
def test_rejects_other_tables(table, change, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        plot_faithfulness(change(table))


def test_the_legend_names_every_curve_once(table):
    figure = plot_faithfulness(table)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["circuit", "random"]
