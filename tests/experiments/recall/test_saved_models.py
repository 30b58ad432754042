"""Saved models load, say what they were trained for, and are whole or absent."""

import json
from dataclasses import replace

import pytest
import quick_recall
import torch

from sae_lens_ext.based import BasedForCausalLM
from sae_lens_ext.experiments.recall import MQAR, Recipe, train_grid, train_mqar
from sae_lens_ext.experiments.recall.saved_models import model_folder
from sae_lens_ext.experiments.recall.table import read_table

TASK = quick_recall.TASK


def test_models_are_saved_whole_with_what_they_were_trained_for(trained, tmp_path):
    recipes = quick_recall.recipes()[:2]
    recipe = recipes[0]
    table = tmp_path / "mqar.csv"
    models = tmp_path / "models"
    train_grid(TASK, [recipe], table, progress=False)
    train_grid(TASK, recipes, table, models=models, progress=False)
    assert trained == [recipe, *recipes], "the one in the table had left no model"
    assert len(read_table(table)) == 2

    folder = model_folder(models, recipe, TASK)
    assert folder.name.startswith("based-lr0.3-seed1-")
    saved = BasedForCausalLM.from_pretrained(folder)
    model, _ = train_mqar(recipe, TASK)
    assert saved.config.kernel == "based"
    tokens, _ = TASK.sample(3, quick_recall.generator())
    assert torch.equal(saved(tokens).logits, model(tokens).logits)

    facts = json.loads((folder / "mqar.json").read_text())
    assert Recipe(**facts["recipe"]) == recipe
    assert MQAR(**facts["task"]) == TASK
    assert facts["outcome"]["accuracy"] == read_table(table)["accuracy"][0]
    assert len(list(models.iterdir())) == 2, "nothing but whole models"

    train_grid(TASK, recipes, table, models=models, progress=False)
    assert len(trained) == 3


def test_model_that_cannot_be_written_leaves_nothing(trained, tmp_path, monkeypatch):
    recipes = quick_recall.recipes()[:1]
    table = tmp_path / "mqar.csv"
    models = tmp_path / "models"

    def write_half(self, folder):
        (folder / "model.safetensors").write_text("")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(BasedForCausalLM, "save_pretrained", write_half)
        with pytest.raises(OSError, match="no space left"):
            train_grid(TASK, recipes, table, models=models, progress=False)
    assert not list(models.iterdir())
    assert len(read_table(table)) == 1, "the outcome is not lost"

    folder = model_folder(models, recipes[0], TASK)
    folder.mkdir()
    train_grid(TASK, recipes, table, models=models, progress=False)
    assert (folder / "model.safetensors").exists(), "an empty folder is not a model"
    assert len(read_table(table)) == 1


def test_every_recipe_and_task_has_a_folder_of_its_own(tmp_path):
    grid = quick_recall.recipes()
    recipes = [
        *grid,
        replace(grid[0], d_model=16),
        replace(grid[0], train_examples=8),
    ]
    tasks = [TASK, replace(TASK, vocab_size=11)]
    folders = {
        model_folder(tmp_path, recipe, task) for recipe in recipes for task in tasks
    }
    assert len(folders) == len(recipes) * len(tasks)
