"""The table of results: a CSV file with one line per recipe and task."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from sae_lens_ext.errors import FormatError
from sae_lens_ext.experiments.recall.recipe import Outcome, Recipe
from sae_lens_ext.experiments.recall.task import MQAR
from sae_lens_ext.formats.atomic import replacing

# The columns that tell lines apart come first; what training gave follows.
_KEY = [field.name for kind in (Recipe, MQAR) for field in fields(kind)]
_COLUMNS = [*_KEY, *(field.name for field in fields(Outcome))]
_FLOATS = [
    field.name
    for kind in (Recipe, MQAR, Outcome)
    for field in fields(kind)
    if field.type is float
]


def read_table(path: Path) -> pd.DataFrame:
    """Read the lines that were written so far; none if there is no file.

    Raises:
        FormatError: the file is not a table of results, or one of another version.
    """
    if not path.exists():
        return pd.DataFrame(columns=_COLUMNS)

    # Python reads a number as it was written; pandas 2 can be a rounding off, and a
    # recipe that was trained would not be recognised.
    converters = dict.fromkeys(_FLOATS, float)
    try:
        table = pd.read_csv(path, converters=converters)
    except ValueError as error:
        raise FormatError(
            f"{path} is not a table of results: {error}; name another file, or delete "
            "it"
        ) from error

    if list(table.columns) != _COLUMNS:
        raise FormatError(
            f"{path} is not a table of results of this version: its columns are "
            f"{list(table.columns)}; name another file"
        )
    return table


def add_line(
    path: Path,
    recipe: Recipe,
    task: MQAR,
    outcome: Outcome,
) -> None:
    """Write the line of a recipe, in place of an earlier line of it."""
    # Read again, because another command may have added lines meanwhile.
    table: Any = read_table(path)
    own_key = line_key(recipe, task)
    is_other = [key != own_key for key in line_keys(table)]
    table = table[is_other]

    values = {**asdict(recipe), **asdict(task), **asdict(outcome)}
    line = pd.DataFrame([values], columns=_COLUMNS)

    # Concatenating an empty table would change the types of its columns.
    lines = line if table.empty else pd.concat([table, line])
    with replacing(path) as temporary:
        lines.to_csv(temporary, index=False)


def lines_of(path: Path, recipes: Sequence[Recipe], task: MQAR) -> pd.DataFrame:
    """The lines of these recipes, each once, in the order of ``recipes``."""
    table = read_table(path)
    number_of = {key: number for number, key in enumerate(line_keys(table))}
    unique = dict.fromkeys(recipes)
    numbers = [number_of[line_key(recipe, task)] for recipe in unique]
    return table.iloc[numbers].reset_index(drop=True)


def line_key(recipe: Recipe, task: MQAR) -> tuple[object, ...]:
    """What tells the line of a recipe and a task from every other line."""
    return (*asdict(recipe).values(), *asdict(task).values())


def line_keys(table: Any) -> list[tuple[object, ...]]:
    """The ``line_key`` of every line."""
    keys = []
    for row in table[_KEY].astype(object).itertuples(index=False):
        # None in a recipe is NaN in a table.
        keys.append(tuple(None if pd.isna(value) else value for value in row))
    return keys
