"""Shares of a metric and their bands."""

import math
from dataclasses import replace

import numpy
import pytest

from sae_lens_ext.circuits.faithfulness.result import Faithfulness, Measured


def measured(kept, left=(0.0, 0.0), *, kind="circuit", draw=0, rows=(0, 1)):
    return Measured(
        kind,
        draw,
        4,
        4,
        0,
        rows,
        metric_model=numpy.array([2.0, 4.0]),
        metric_empty=numpy.array([0.0, 1.0]),
        metric=numpy.array(kept),
        metric_complement=numpy.array(left),
    )


def test_a_share_is_of_means_over_prompts():
    table = Faithfulness("zero", (measured([1.0, 3.0], [0.0, 1.5]),)).table()
    (row,) = table.to_dict("records")
    # (2 - 0.5) / (3 - 0.5), and (0.75 - 0.5) / (3 - 0.5)
    assert row["faithfulness"] == pytest.approx(0.6)
    assert row["completeness"] == pytest.approx(0.1)
    assert (row["metric_empty"], row["metric"], row["metric_model"]) == (0.5, 2, 3)
    # Each prompt alone is a sample: 1 / 2, and 2 / 3.
    assert row["low"] == pytest.approx(0.5)
    assert row["high"] == pytest.approx(2 / 3)


def test_prompts_without_a_difference_are_no_part_of_the_band():
    item = replace(
        measured([2.0, 2.0]),
        metric_model=numpy.array([2.0, 4.0]),
        metric_empty=numpy.array([2.0, 1.0]),
    )
    (row,) = Faithfulness("zero", (item,)).table().to_dict("records")
    # Samples of the second prompt alone, and of both.
    assert row["low"] == pytest.approx(1 / 3)
    assert row["high"] == pytest.approx(1 / 3)
    nothing = replace(item, metric_empty=item.metric_model)
    (row,) = Faithfulness("zero", (nothing,)).table().to_dict("records")
    assert math.isnan(row["low"])


def test_the_band_of_several_circuits_is_over_them():
    items = tuple(
        measured([share * 2, 1 + share * 3], kind="random", draw=draw)
        for draw, share in enumerate([0.0, 0.2, 0.4])
    )
    (row,) = Faithfulness("zero", items).table().to_dict("records")
    assert row["n_circuits"] == 3
    assert row["faithfulness"] == pytest.approx(0.2)
    assert row["low"] == pytest.approx(0.01)
    assert row["high"] == pytest.approx(0.39)


def test_one_number_has_no_band():
    item = Measured(
        "circuit",
        0,
        1,
        1,
        0,
        (0, 1),
        metric_model=numpy.array(2.0),
        metric_empty=numpy.array(1.0),
        metric=numpy.array(1.5),
        metric_complement=numpy.array(1.0),
    )
    result = Faithfulness("mean", (item,))
    (row,) = result.table().to_dict("records")
    assert row["faithfulness"] == 0.5
    assert math.isnan(row["low"])
    assert result.by_prompt().row.tolist() == [-1]


def test_every_prompt_has_its_numbers():
    items = (measured([1.0, 3.0]), measured([0.0, 1.0], kind="random"))
    result = Faithfulness("zero", items)
    table = result.by_prompt()
    assert table.nodes.tolist() == ["circuit"] * 2 + ["random"] * 2
    assert table.row.tolist() == [0, 1, 0, 1]
    assert table.metric.tolist() == [1, 3, 0, 1]
    expected = "Faithfulness(zero ablation, 2 circuits: circuit, random)"
    assert repr(result) == expected
