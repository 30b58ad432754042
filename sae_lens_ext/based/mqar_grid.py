"""Many recipes for ``mqar``, side by side on the cores there are, kept in a table as they finish."""

import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from sae_lens_ext.based.mqar import MQAR, Outcome, Recipe, train_mqar
from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.atomic import replacing

_KEY = [field.name for kind in (Recipe, MQAR) for field in fields(kind)]
_COLUMNS = [*_KEY, *(field.name for field in fields(Outcome))]


def grid(base: Recipe, kernels: Sequence[str], lrs: Sequence[float], seeds: Iterable[int]) -> list[Recipe]:
    """Every kernel at every learning rate with every seed."""
    return [replace(base, kernel=kernel, lr=lr, seed=seed) for seed, kernel, lr in itertools.product(seeds, kernels, lrs)]


def run_grid(
    task: MQAR, recipes: Sequence[Recipe], table: Path, *, jobs: int = 1, device: str = "cpu", progress: bool = True
) -> pd.DataFrame:
    """Train every recipe that is not in the table yet; the table is written after each.

    Args:
        task: what they learn.
        recipes: how.
        table: a CSV file, one line per recipe; made if it is not there. What is in it is not run again.
        jobs: how many to train at a time. On a CPU each takes one thread: models this small are no faster with more.
        device: where.
        progress: show how many are done.

    Returns:
        The lines of these recipes.

    Raises:
        FormatError: ``table`` is another kind of file.
    """
    done: Any = read_table(table)
    known = {tuple(row) for row in done[_KEY].astype(object).itertuples(index=False)} if len(done) else set()
    known = {tuple(None if pd.isna(value) else value for value in row) for row in known}
    missing = [recipe for recipe in dict.fromkeys(recipes) if _key(recipe, task) not in known]
    with tqdm(total=len(missing), desc="training", disable=not progress, unit="model") as bar, _pool(jobs) as pool:
        running = {pool.submit(_train, recipe, task, device): recipe for recipe in missing}
        for finished in as_completed(running):
            recipe, outcome = running[finished], finished.result()
            row = pd.DataFrame([{**asdict(recipe), **asdict(task), **asdict(outcome)}], columns=_COLUMNS)
            done = row if done.empty else pd.concat([done, row], ignore_index=True)
            with replacing(table) as temporary:
                done.to_csv(temporary, index=False)
            bar.set_postfix_str(f"{recipe.kernel} lr={recipe.lr:g} seed={recipe.seed}: {outcome.accuracy:.3f}")
            bar.update()
    wanted = {_key(recipe, task) for recipe in recipes}
    rows = [
        tuple(None if pd.isna(value) else value for value in row) in wanted for row in done[_KEY].astype(object).itertuples(index=False)
    ]
    return done[rows].reset_index(drop=True)


def read_table(table: Path) -> pd.DataFrame:
    """What ``run_grid`` has written so far; no lines if there is no file."""
    if not table.exists():
        return pd.DataFrame(columns=_COLUMNS)
    try:
        found = pd.read_csv(table)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise FormatError(f"{table} is no table of results: {error}; name another file, or delete it") from error
    if list(found.columns) != _COLUMNS:
        raise FormatError(f"{table} is no table of results of this version: its columns are {list(found.columns)}; name another file")
    return found


def summary(results: Any) -> pd.DataFrame:
    """One line per kernel, at the learning rate that is best for it on average: runs, mean, spread, share solved, median step."""
    lines = []
    for kernel, runs in results.groupby("kernel", sort=False):
        by_lr = runs.groupby("lr")["accuracy"].mean()
        best = runs[runs["lr"] == by_lr.idxmax()]
        solved = best[best["solved_at"] > 0]
        lines.append(
            {
                "kernel": kernel,
                "lr": by_lr.idxmax(),
                "runs": len(best),
                "accuracy": best["accuracy"].mean(),
                "std": best["accuracy"].std(),
                "solved": len(solved) / len(best),
                "steps_to_solve": solved["solved_at"].median(),
                "seconds": best["seconds"].mean(),
            }
        )
    return pd.DataFrame(lines)


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))


def _train(recipe: Recipe, task: MQAR, device: str) -> Outcome:
    return train_mqar(recipe, task, device=device)[1]


def _key(recipe: Recipe, task: MQAR) -> tuple[object, ...]:
    return (*asdict(recipe).values(), *asdict(task).values())
