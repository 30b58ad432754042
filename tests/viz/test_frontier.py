"""The figure of a sweep shows its numbers, and refuses a table without its ends."""

import pandas
import pytest

import sae_lens_ext as sle
from sae_lens_ext.viz import plot_frontier


@pytest.fixture
def sweep():
    table = pandas.DataFrame(
        {
            "k": [1, 2, 8],
            "l0": [1.0, 2.0, 7.5],
            "fvu": [0.5, 0.25, 0.125],
            "ce": [4.0, 3.5, 3.25],
        }
    )
    table.attrs.update(ce_bare=3.0, ce_mean=8.0, sites=["blocks.1.hook_resid_post"])
    return table


def test_shows_the_error_and_the_loss_at_every_k(sweep):
    figure = plot_frontier(sweep)
    left, right = figure.axes
    (error,) = left.lines
    bare, mean, loss = right.lines
    assert list(error.get_xdata()) == [1, 2, 8]
    assert list(error.get_ydata()) == [0.5, 0.25, 0.125]
    assert list(loss.get_ydata()) == [4.0, 3.5, 3.25]
    assert (set(bare.get_ydata()), set(mean.get_ydata())) == ({3.0}, {8.0})
    assert [text.get_text() for text in left.texts] == ["0.50", "0.25", "0.12"]
    assert [label.get_text() for label in right.get_xticklabels()] == ["1", "2", "8"]


def test_is_headed_by_the_site_or_the_given_title(sweep):
    assert plot_frontier(sweep).get_suptitle() == (
        "One SAE at every k: blocks.1.hook_resid_post"
    )
    assert plot_frontier(sweep, title="Mine").get_suptitle() == "Mine"


@pytest.mark.parametrize("name", ["ce_bare", "ce_mean", "sites"])
def test_rejects_a_table_that_lost_its_ends(sweep, name):
    del sweep.attrs[name]
    with pytest.raises(
        sle.InvalidArgument,
        match=rf"has no attrs\['{name}'\]: a table that was read from a CSV file",
    ):
        plot_frontier(sweep)


def test_draws_tables_by_name_into_the_same_panels(sweep):
    other = sweep.assign(k=[2, 4, 16], fvu=[0.75, 0.5, 0.25])
    figure = plot_frontier({"hierarchical": sweep, "TopK 16": other})
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["hierarchical", "TopK 16"]
    assert list(left.lines[1].get_ydata()) == [0.75, 0.5, 0.25]
    assert left.lines[0].get_color() != left.lines[1].get_color()
    assert left.lines[1].get_color() == right.lines[-1].get_color()

    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend == ["hierarchical", "TopK 16"]
    ticks = [label.get_text() for label in left.get_xticklabels()]
    assert ticks == ["1", "2", "4", "8", "16"]
    assert figure.get_suptitle() == "2 SAEs at every k: blocks.1.hook_resid_post"

    # The same ends, drawn once.
    assert len(right.lines) == 4


def test_draws_the_ends_of_every_table_where_they_differ(sweep):
    other = sweep.copy()
    other.attrs = {**sweep.attrs, "ce_mean": 9.0}
    _, right = plot_frontier({"a": sweep, "b": other}).axes
    heights = [line.get_ydata()[0] for line in right.lines[:3]]
    assert heights == [3.0, 8.0, 9.0]


def test_a_row_without_k_stands_at_its_mean_number_of_features(sweep):
    sweep["k"] = pandas.array([1, 2, None], dtype="Int64")
    left, _ = plot_frontier(sweep).axes
    line, open_marker = left.lines
    assert list(line.get_xdata()) == [1, 2]
    assert list(open_marker.get_xdata()) == [7.5]
    assert open_marker.get_markerfacecolor() == "#ffffff"
    assert [label.get_text() for label in left.get_xticklabels()] == ["1", "2"]


def test_rejects_an_empty_mapping_and_other_objects(sweep):
    with pytest.raises(sle.InvalidArgument, match="no table to plot"):
        plot_frontier({})
    with pytest.raises(
        sle.InvalidArgument,
        match="the table 'b' must be what sweep_k returned; got an object of type int",
    ):
        plot_frontier({"a": sweep, "b": 3})


def test_rejects_a_table_without_rows_or_columns_that_it_draws(sweep):
    with pytest.raises(sle.InvalidArgument, match="this table has no rows"):
        plot_frontier(sweep.iloc[:0])
    with pytest.raises(sle.InvalidArgument, match="this table has no column 'l0'"):
        plot_frontier(sweep[["k", "fvu"]])
    with pytest.raises(sle.InvalidArgument, match="this table has no column"):
        plot_frontier(sweep.iloc[0])
