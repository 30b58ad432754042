"""A grid checks first, trains what is missing, and survives an interruption."""

import itertools
import time
from dataclasses import replace

import pandas as pd
import pytest
import quick_recall

import sae_lens_ext as sle
from sae_lens_ext.experiments.recall import grid as grid_module
from sae_lens_ext.experiments.recall import train_grid, train_mqar
from sae_lens_ext.experiments.recall.table import read_table

TASK = quick_recall.TASK
RECIPE = quick_recall.RECIPE


def test_grid_is_every_kernel_at_every_learning_rate_seed_by_seed():
    recipes = quick_recall.recipes()
    assert [(recipe.seed, recipe.kernel, recipe.lr) for recipe in recipes] == list(
        itertools.product((1, 2), ("based", "rebased"), (0.1 + 0.2, 1e-3))
    )
    others = {replace(recipe, kernel="rebased", lr=1.0, seed=0) for recipe in recipes}
    assert others == {replace(RECIPE, lr=1.0, seed=0)}


@pytest.mark.parametrize("to", [{"table": "file/runs/mqar.csv"}, {"models": "file"}])
def test_unwritable_folders_are_found_before_training(
    trained, tmp_path, monkeypatch, to
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    paths = {"table": "mqar.csv", **to}
    with pytest.raises(OSError, match="file"):
        train_grid(TASK, quick_recall.recipes(), **paths, progress=False)
    assert not trained


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("jobs", [0, 1.5])
def test_rejects_invalid_job_count(trained, tmp_path, jobs):
    with pytest.raises(
        sle.InvalidArgument, match=f"jobs must be a positive integer; got {jobs}"
    ):
        train_grid(TASK, quick_recall.recipes(), tmp_path / "mqar.csv", jobs=jobs)


def test_rejects_unusable_device_before_training(trained, tmp_path):
    with pytest.raises(
        sle.InvalidArgument, match="device 'nowhere' cannot be used here"
    ):
        train_grid(
            TASK,
            quick_recall.recipes(),
            tmp_path / "mqar.csv",
            device="nowhere",
            progress=False,
        )
    assert not trained


def test_rejects_more_pairs_than_the_task_has_before_training(trained, tmp_path):
    recipes = [RECIPE, replace(RECIPE, fewest_pairs=3)]
    with pytest.raises(
        sle.InvalidArgument,
        match="fewest_pairs must not exceed the task's pairs=2; got 3",
    ):
        train_grid(TASK, recipes, tmp_path / "mqar.csv", progress=False)
    assert not trained


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_seq_len": 6},
            "train_seq_len must be the task's seq_len=8 .* got 6; "
            "give learned_positions=False",
        ),
        (
            {"train_seq_len": 6, "learned_positions": False},
            "train_seq_len=6 does not fit the task: "
            "seq_len must be even and at least 4 ",
        ),
    ],
)
def test_rejects_lengths_that_cannot_be_trained_on_before_training(
    trained, tmp_path, changes, message
):
    recipes = [RECIPE, replace(RECIPE, **changes)]
    with pytest.raises(sle.InvalidArgument, match=message):
        train_grid(TASK, recipes, tmp_path / "mqar.csv", progress=False)
    assert not trained


def test_lines_of_the_table_are_not_trained_again(trained, tmp_path):
    table = tmp_path / "new" / "mqar.csv"
    recipes = quick_recall.recipes()
    of_first_seed = quick_recall.recipes(seeds=(1,))
    first = train_grid(TASK, of_first_seed, table, progress=False)
    assert trained == of_first_seed

    whole = train_grid(TASK, recipes + recipes, table, progress=False)
    assert trained[4:] == recipes[4:], "one seed more, and each recipe once"
    pd.testing.assert_frame_equal(whole[:4], first)
    pd.testing.assert_frame_equal(read_table(table), whole)

    of_second_seed = quick_recall.recipes(seeds=(2,))
    part = train_grid(TASK, of_second_seed[:1], table, progress=False)
    assert part["seed"].tolist() == [2], (
        "of all in the table, the lines that were asked for"
    )
    assert len(trained) == 8

    other_task = replace(TASK, random_non_queries=True)
    other_recipes = [replace(recipe, train_examples=8) for recipe in of_first_seed]
    train_grid(other_task, of_first_seed, table, progress=False)
    train_grid(TASK, other_recipes, table, progress=False)
    assert len(trained) == 16, (
        "another task, and another set to train on, are other recipes"
    )
    train_grid(other_task, of_first_seed, table, progress=False)
    train_grid(TASK, other_recipes, table, progress=False)
    assert len(trained) == 16
    assert len(read_table(table)) == 16


def test_table_holds_the_outcomes_of_training(trained, tmp_path):
    recipes = quick_recall.recipes(seeds=(3,))
    table = train_grid(TASK, recipes, tmp_path / "mqar.csv", progress=False)
    for recipe, line in zip(recipes, table.itertuples(), strict=True):
        _, outcome = train_mqar(recipe, TASK)
        assert (line.kernel, line.lr, line.seed) == (recipe.kernel, recipe.lr, 3)
        assert (line.accuracy, line.last_accuracy, line.solved_at) == (
            outcome.accuracy,
            outcome.last_accuracy,
            outcome.solved_at,
        )


def test_interrupted_grid_keeps_its_lines_starts_no_more_and_continues(
    trained, tmp_path, monkeypatch
):
    table = tmp_path / "mqar.csv"
    train = grid_module.train_mqar
    recipes = quick_recall.recipes()
    begun = []

    def interrupted_at_the_third(recipe, task, *, device):
        begun.append(recipe)
        if len(begun) == 3:
            raise KeyboardInterrupt
        # The fourth, begun meanwhile on this thread, lasts long enough for the rest to
        # be cancelled.
        time.sleep(len(begun) // 4)
        return train(recipe, task, device=device)

    monkeypatch.setattr(grid_module, "train_mqar", interrupted_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        train_grid(TASK, recipes, table, progress=False)
    assert len(begun) <= 4
    assert read_table(table)["kernel"].tolist() == ["based", "based"]

    monkeypatch.setattr(grid_module, "train_mqar", train)
    trained.clear()
    assert len(train_grid(TASK, recipes, table, progress=False)) == 8
    assert trained == recipes[2:]
