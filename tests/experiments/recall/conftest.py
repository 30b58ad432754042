"""Fixtures of the tests that train grids."""

import concurrent.futures

import pytest

from sae_lens_ext.experiments.recall import grid as grid_module
from sae_lens_ext.experiments.recall import workers


@pytest.fixture
def trained(monkeypatch):
    """The recipes that are really trained, in threads of this process."""
    recipes = []
    train = grid_module.train_mqar

    def recorded(recipe, task, *, device):
        recipes.append(recipe)
        return train(recipe, task, device=device)

    monkeypatch.setattr(grid_module, "train_mqar", recorded)
    monkeypatch.setattr(workers, "process_pool", concurrent.futures.ThreadPoolExecutor)
    return recipes
