"""The figure of a sweep shows its numbers, and refuses a table without its ends."""

import pandas
import pytest

import sae_lens_ext as sle
from sae_lens_ext.viz import plot_frontier


@pytest.fixture
def sweep():
    table = pandas.DataFrame(
        {"k": [1, 2, 8], "fvu": [0.5, 0.25, 0.125], "ce": [4.0, 3.5, 3.25]}
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
