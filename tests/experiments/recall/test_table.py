"""The table of results is written whole, and never over a file of another kind."""

from dataclasses import replace

import pandas as pd
import pytest
import quick_recall

import sae_lens_ext as sle
from sae_lens_ext.experiments.recall import Outcome, train_grid
from sae_lens_ext.experiments.recall import grid as grid_module
from sae_lens_ext.experiments.recall.table import add_line, read_table

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
