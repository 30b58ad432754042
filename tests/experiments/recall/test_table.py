"""The table of results is written whole, and never over a file of another kind."""

from dataclasses import replace

import pandas as pd
import pytest
import quick_recall

import sae_lens_ext as sle
from sae_lens_ext.experiments.recall import Outcome, train_grid
from sae_lens_ext.experiments.recall import grid as grid_module
from sae_lens_ext.experiments.recall.table import (
    add_line,
    line_key,
    line_keys,
    read_table,
)

TASK = quick_recall.TASK


def test_table_is_replaced_whole_or_not_at_all(trained, tmp_path, monkeypatch):
    table = tmp_path / "mqar.csv"
    recipes = quick_recall.recipes()
    train_grid(TASK, recipes[:1], table, progress=False)
    before = table.read_bytes()

    def write_half(self, path, **_):
        path.write_text("kernel,d_mod")
        raise OSError("no space left")

    monkeypatch.setattr(pd.DataFrame, "to_csv", write_half)
    with pytest.raises(OSError, match="no space left"):
        train_grid(TASK, recipes[:2], table, progress=False)
    assert table.read_bytes() == before
    assert list(tmp_path.iterdir()) == [table]


def test_lines_that_another_command_adds_meanwhile_stay(trained, tmp_path, monkeypatch):
    table = tmp_path / "mqar.csv"
    train = grid_module.train_mqar

    def beside_another_command(recipe, task, *, device):
        if not trained:
            other_recipe = replace(recipe, kernel="square")
            add_line(table, other_recipe, task, Outcome(0.5, 0.5, -1, 1.0))
        return train(recipe, task, device=device)

    monkeypatch.setattr(grid_module, "train_mqar", beside_another_command)
    recipes = quick_recall.recipes(seeds=(1,))
    assert len(train_grid(TASK, recipes, table, progress=False)) == 4
    assert len(read_table(table)) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"",
            "mqar.csv is not a table of results: .*; name another file, or delete it",
        ),
        (b"\xff\xfe\x00", "is not a table of results: "),
        (
            b"kernel,accuracy\nbased,1.0\n",
            "is not a table of results of this version: "
            r"its columns are \['kernel', 'accuracy'\]; name another",
        ),
    ],
)
def test_rejects_other_file_and_leaves_it_alone(trained, tmp_path, content, message):
    table = tmp_path / "mqar.csv"
    table.write_bytes(content)
    with pytest.raises(sle.FormatError, match=message):
        train_grid(TASK, quick_recall.recipes(), table, progress=False)
    assert table.read_bytes() == content
    assert not trained


def with_cell(table, column, cell):
    """Write another value into the second line of a table."""
    header, first, second, *rest = table.read_text().splitlines()
    cells = second.split(",")
    cells[header.split(",").index(column)] = cell
    table.write_text("\n".join([header, first, ",".join(cells), *rest]) + "\n")


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("seed", "x", "line 3: seed must be an integer; it is 'x'; correct the cell"),
        ("seed", "1.5", "line 3: seed must be an integer; it is '1.5'"),
        ("seed", "1e3x", "line 3: seed must be an integer; it is '1e3x'"),
        ("seed", "", "line 3: seed must be an integer; it is ''"),
        ("lr", "fast", "line 3: lr must be a finite number; it is 'fast'"),
        ("accuracy", "nan", "line 3: accuracy must be a finite number; it is 'nan'"),
        ("diverged", "no", "line 3: diverged must be True or False; it is 'no'"),
        ("fewest_pairs", "few", "line 3: fewest_pairs must be an integer or empty"),
        ("seconds", "1,2", r"line 3: it has \d+ cells, and the table has \d+ columns"),
    ],
)
def test_a_bad_cell_is_named_and_nothing_is_trained_or_lost(
    trained, tmp_path, column, cell, message
):
    table = tmp_path / "mqar.csv"
    recipes = quick_recall.recipes(seeds=(1,))
    train_grid(TASK, recipes, table, progress=False)
    trained.clear()
    good = table.read_bytes()
    with_cell(table, column, cell)
    bad = table.read_bytes()

    with pytest.raises(sle.FormatError, match=f"mqar.csv, {message}"):
        train_grid(TASK, recipes, table, progress=False)
    assert table.read_bytes() == bad
    assert not trained

    table.write_bytes(good)
    train_grid(TASK, recipes, table, progress=False)
    assert not trained


def test_integers_none_and_numbers_of_earlier_tables_survive(tmp_path):
    table = tmp_path / "mqar.csv"
    recipes = [
        replace(quick_recall.RECIPE, fewest_pairs=pairs, seed=seed)
        for seed, pairs in enumerate((None, 1, 2, None))
    ]
    recipes.append(replace(quick_recall.RECIPE, seed=(1 << 63) - 1))
    for recipe in recipes:
        add_line(table, recipe, TASK, Outcome(0.5, 0.5, -1, 0.1 + 0.2))
    assert [line[:13] for line in line_keys(read_table(table))] == [
        line_key(recipe, TASK)[:13] for recipe in recipes
    ]
    # As pandas writes a column with empty cells.
    with_cell(table, "fewest_pairs", "1.0")
    assert line_keys(read_table(table))[1] == line_key(recipes[1], TASK)
    assert read_table(table)["seconds"].tolist() == [0.1 + 0.2] * len(recipes)
