"""Many recipes, trained side by side, with a table of results as they finish."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.experiments.checks import check_instance
from sae_lens_ext.experiments.recall.batches import training_tasks
from sae_lens_ext.experiments.recall.recipe import Outcome, Recipe
from sae_lens_ext.experiments.recall.saved_models import (
    is_saved,
    model_folder,
    save_model,
)
from sae_lens_ext.experiments.recall.table import (
    add_line,
    line_key,
    line_keys,
    lines_of,
    read_table,
)
from sae_lens_ext.experiments.recall.task import MQAR
from sae_lens_ext.experiments.recall.training import train_mqar
from sae_lens_ext.experiments.recall.workers import worker_pool


def grid(
    base: Recipe,
    kernels: Sequence[str],
    lrs: Sequence[float],
    seeds: Iterable[int],
) -> list[Recipe]:
    """Every kernel at every learning rate with every seed.

    All recipes of one seed come first, so that results which are there early can be
    compared.

    Raises:
        InvalidArgument: a value that no recipe can have, or a single value in place of
            a list.
    """
    choices = {"kernels": kernels, "lrs": lrs, "seeds": seeds}
    for name, values in choices.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise InvalidArgument(f"{name} must be a list; got {described(values)}")
    return [
        replace(base, kernel=kernel, lr=lr, seed=seed)
        for seed, kernel, lr in itertools.product(seeds, kernels, lrs)
    ]


def train_grid(
    task: MQAR,
    recipes: Sequence[Recipe],
    table: Path | str,
    *,
    models: Path | str | None = None,
    jobs: int = 1,
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Train every recipe that is not in the table yet; the table is written after each.

    Args:
        task: the task to learn.
        recipes: the models, and how to train them.
        table: a CSV file with one line per recipe, created if missing. Recipes that are
            in it are not trained again.
        models: folder for the trained models, each in a folder of its own (see
            ``model_folder``); None saves none. A recipe that is in the table and whose
            model is missing is trained again. The result of a model that cannot be
            written is in the table nevertheless.
        jobs: how many to train at a time. On a CPU each takes one thread: models this
            small are no faster with more.
        device: where to train.
        progress: show how many are done.

    Returns:
        The lines of these recipes, each once, in their order.

    Raises:
        FormatError: ``table`` is a file of another kind.
        InvalidArgument: ``device`` cannot be used here, a recipe does not fit the task,
            or ``jobs`` is not a positive integer.
        OSError: the folder of ``table`` or ``models`` cannot be made, or a model cannot
            be written.
    """
    # Everything that can be wrong is found before hours of training, not after.
    jobs = arguments.positive_int(jobs, "jobs")
    arguments.device(device)
    check_instance(task, MQAR, "task")
    recipes = _checked_recipes(recipes, task)
    if not isinstance(table, str | Path):
        raise InvalidArgument(
            f"table must be the path of a CSV file; got {described(table)}"
        )

    table = Path(table)
    table.parent.mkdir(parents=True, exist_ok=True)
    folders: dict[Recipe, Path | None] = dict.fromkeys(recipes)
    if models is not None:
        models = Path(models)
        models.mkdir(parents=True, exist_ok=True)
        folders = {recipe: model_folder(models, recipe, task) for recipe in recipes}

    missing = _missing(table, task, folders)
    with (
        tqdm(
            total=len(missing), desc="training", disable=not progress, unit="model"
        ) as bar,
        worker_pool(jobs) as pool,
    ):
        futures = {
            pool.submit(_train_and_save, recipe, task, device, folders[recipe]): recipe
            for recipe in missing
        }
        for future in as_completed(futures):
            recipe = futures[future]
            outcome, failure = future.result()
            # Before a failure is raised: the outcome counts without a saved model too.
            add_line(table, recipe, task, outcome)
            if failure is not None:
                raise failure

            bar.set_postfix_str(
                f"{recipe.kernel} lr={recipe.lr:g} seed={recipe.seed}: "
                f"{outcome.accuracy:.3f}"
            )
            bar.update()
    return lines_of(table, recipes, task)


def _checked_recipes(recipes: Iterable[Recipe], task: MQAR) -> list[Recipe]:
    if isinstance(recipes, Recipe) or not isinstance(recipes, Iterable):
        raise InvalidArgument(
            "recipes must be a list of Recipe; got an object of type "
            f"{type(recipes).__name__}"
        )
    checked = list(recipes)
    for number, recipe in enumerate(checked):
        check_instance(recipe, Recipe, f"recipes[{number}]")
        training_tasks(recipe, task)
    return checked


def _missing(
    table: Path, task: MQAR, folders: Mapping[Recipe, Path | None]
) -> list[Recipe]:
    """Recipes without a line in the table, or whose model is to be saved and is not."""
    known = set(line_keys(read_table(table)))
    missing = []
    for recipe, folder in folders.items():
        has_line = line_key(recipe, task) in known
        has_model = folder is None or is_saved(folder)
        if not (has_line and has_model):
            missing.append(recipe)
    return missing


def _train_and_save(
    recipe: Recipe,
    task: MQAR,
    device: str,
    folder: Path | None,
) -> tuple[Outcome, OSError | None]:
    """Train one recipe in a worker.

    Returns:
        The outcome, and the error of a model that could not be written: the outcome is
        not lost with it.
    """
    model, outcome = train_mqar(recipe, task, device=device)
    try:
        if folder is not None and not is_saved(folder):
            save_model(folder, model, recipe, task, outcome)
    except OSError as error:
        # Another command may have saved the same model meanwhile.
        if folder is None or not is_saved(folder):
            return outcome, error
    return outcome, None
