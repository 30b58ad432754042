"""Many recipes for ``mqar``, side by side on the cores there are, kept in a table as they finish."""

import hashlib
import itertools
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields, replace
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._arguments import as_integer
from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.experiments.recall.task import (
    MQAR,
    Outcome,
    Recipe,
    train_mqar,
    trained_on,
)
from sae_lens_ext.formats.atomic import replacing

_KEY = [field.name for kind in (Recipe, MQAR) for field in fields(kind)]
_COLUMNS = [*_KEY, *(field.name for field in fields(Outcome))]
_FLOATS = [
    field.name
    for kind in (Recipe, MQAR, Outcome)
    for field in fields(kind)
    if field.type is float
]
_FACTS = "mqar.json"


def grid(
    base: Recipe, kernels: Sequence[str], lrs: Sequence[float], seeds: Iterable[int]
) -> list[Recipe]:
    """Every kernel at every learning rate with every seed; all of one seed first, so that what is there early can be compared."""
    return [
        replace(base, kernel=kernel, lr=lr, seed=seed)
        for seed, kernel, lr in itertools.product(seeds, kernels, lrs)
    ]


def run_grid(
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
        task: what they learn.
        recipes: how.
        table: a CSV file, one line per recipe; made if it is not there. What is in it is not run again.
        models: folder to keep the trained models in, each in a folder of its own (see ``model_folder``), for ``from_pretrained``. A recipe
            that is in the table and whose model is not there is trained again. None keeps none. What came of a model that cannot be
            written is in the table nevertheless.
        jobs: how many to train at a time. On a CPU each takes one thread: models this small are no faster with more.
        device: where.
        progress: show how many are done.

    Returns:
        The lines of these recipes, each once, in their order.

    Raises:
        FormatError: ``table`` is another kind of file.
        InvalidArgument: models cannot be trained on ``device``, a recipe is none for this task, or ``jobs`` are none.
        OSError: there can be no folder for ``table`` or ``models``, or a model cannot be written.
    """
    if (as_integer(jobs) or 0) < 1:
        raise InvalidArgument(f"jobs must be a whole number from 1 on; got {jobs!r}")
    arguments.device(device)
    for recipe in recipes:
        trained_on(recipe, task)
    table, models = Path(table), None if models is None else Path(models)
    # Before hours of training rather than after.
    for folder in (table.parent, models):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    known = set(_keys(read_table(table)))
    folders = {
        recipe: None if models is None else model_folder(models, recipe, task)
        for recipe in recipes
    }
    missing = [
        recipe
        for recipe, folder in folders.items()
        if _key(recipe, task) not in known or (folder and not _is_kept(folder))
    ]
    others = active_children()
    with (
        tqdm(
            total=len(missing), desc="training", disable=not progress, unit="model"
        ) as bar,
        _pool(jobs) as pool,
    ):
        running = {
            pool.submit(_train, recipe, task, device, folders[recipe]): recipe
            for recipe in missing
        }
        try:
            for finished in as_completed(running):
                recipe, (outcome, failure) = running[finished], finished.result()
                _add(table, recipe, task, outcome)
                if failure is not None:
                    raise failure
                bar.set_postfix_str(
                    f"{recipe.kernel} lr={recipe.lr:g} seed={recipe.seed}: {outcome.accuracy:.3f}"
                )
                bar.update()
        except BaseException:
            # A failure, or control-C, ends it now: a pool by itself would first train all that is waiting.
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                if worker not in others:
                    worker.terminate()
            raise
    done = read_table(table)
    line_of = {key: line for line, key in enumerate(_keys(done))}
    return done.iloc[
        [line_of[_key(recipe, task)] for recipe in dict.fromkeys(recipes)]
    ].reset_index(drop=True)


def read_table(table: Path) -> pd.DataFrame:
    """What ``run_grid`` has written so far; no lines if there is no file.

    Raises:
        FormatError: it is another kind of file.
    """
    if not table.exists():
        return pd.DataFrame(columns=_COLUMNS)
    try:
        # Python reads a number as it was written; pandas 2 can be a rounding off, and a run would not be found again.
        found = pd.read_csv(table, converters=dict.fromkeys(_FLOATS, float))
    except ValueError as error:
        raise FormatError(
            f"{table} is no table of results: {error}; name another file, or delete it"
        ) from error
    if list(found.columns) != _COLUMNS:
        raise FormatError(
            f"{table} is no table of results of this version: its columns are {list(found.columns)}; name another file"
        )
    return found


def model_folder(models: Path, recipe: Recipe, task: MQAR) -> Path:
    """Where ``run_grid`` keeps the model of a recipe: a name one can read, and a mark that is different for every other recipe or task."""
    mark = hashlib.sha256(json.dumps(_key(recipe, task)).encode()).hexdigest()[:8]
    return models / f"{recipe.kernel}-lr{recipe.lr:g}-seed{recipe.seed}-{mark}"


def save_model(
    folder: Path, model: BasedForCausalLM, recipe: Recipe, task: MQAR, outcome: Outcome
) -> None:
    """Write a folder for ``BasedForCausalLM.from_pretrained``, and beside the model what it was trained for; all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        # mkdtemp makes private folders; a folder made the ordinary way has the permissions that this one shall have.
        whole = temporary / folder.name
        whole.mkdir()
        model.save_pretrained(whole)
        facts = {
            "recipe": asdict(recipe),
            "task": asdict(task),
            "outcome": asdict(outcome),
        }
        (whole / _FACTS).write_text(
            json.dumps(facts, indent=2) + "\n", encoding="utf-8"
        )
        whole.rename(folder)
    finally:
        shutil.rmtree(temporary)


def _pool(jobs: int) -> Executor:
    return ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_start_worker
    )


def _start_worker() -> None:
    torch.set_num_threads(1)
    # Control-C reaches all processes of a terminal; the one that started the others ends them. Where it is killed it cannot.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _train(
    recipe: Recipe, task: MQAR, device: str, folder: Path | None
) -> tuple[Outcome, OSError | None]:
    model, outcome = train_mqar(recipe, task, device=device)
    try:
        if folder is not None and not _is_kept(folder):
            save_model(folder, model, recipe, task, outcome)
    except OSError as error:
        return outcome, error
    return outcome, None


def _is_kept(folder: Path) -> bool:
    return (folder / _FACTS).exists()


def _add(table: Path, recipe: Recipe, task: MQAR, outcome: Outcome) -> None:
    # Read again: another command may have written to it meanwhile.
    done: Any = read_table(table)
    done = done[[key != _key(recipe, task) for key in _keys(done)]]
    row = pd.DataFrame(
        [{**asdict(recipe), **asdict(task), **asdict(outcome)}], columns=_COLUMNS
    )
    with replacing(table) as temporary:
        (row if done.empty else pd.concat([done, row])).to_csv(temporary, index=False)


def _key(recipe: Recipe, task: MQAR) -> tuple[object, ...]:
    return (*asdict(recipe).values(), *asdict(task).values())


def _keys(table: Any) -> list[tuple[object, ...]]:
    """``_key`` of every line; what is None in a recipe is NaN in a table."""
    rows = table[_KEY].astype(object).itertuples(index=False)
    return [tuple(None if pd.isna(value) else value for value in row) for row in rows]
