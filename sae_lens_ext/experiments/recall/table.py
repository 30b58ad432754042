"""The table of results: a CSV file with one line per recipe and task."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from sae_lens_ext.errors import FormatError
from sae_lens_ext.experiments.recall.recipe import Outcome, Recipe
from sae_lens_ext.experiments.recall.task import MQAR
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.formats.locks import locked

# The columns that tell lines apart come first; what training gave follows.
_KEY = [field.name for kind in (Recipe, MQAR) for field in fields(kind)]
_COLUMNS = [*_KEY, *(field.name for field in fields(Outcome))]
_TYPES: dict[str, Any] = {
    field.name: field.type for kind in (Recipe, MQAR, Outcome) for field in fields(kind)
}
_ADVICE = "name another file, or delete it"


def read_table(path: Path) -> pd.DataFrame:
    """Read the lines that were written so far; none if there is no file.

    Raises:
        FormatError: the file is not a table of results, or one of another version; or
            a cell holds something else than its column. The error names the line.
    """
    if not path.exists():
        return pd.DataFrame(columns=_COLUMNS)

    # Not by pandas, which guesses the types of columns, and shifts the cells of a line
    # that has one too many.
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except (ValueError, csv.Error) as error:
        raise FormatError(
            f"{path} is not a table of results: {error}; {_ADVICE}"
        ) from error
    if not rows:
        raise FormatError(f"{path} is not a table of results: it is empty; {_ADVICE}")
    if rows[0] != _COLUMNS:
        raise FormatError(
            f"{path} is not a table of results of this version: its columns are "
            f"{rows[0]}; name another file"
        )
    lines = [
        _parsed_line(path, number, row)
        for number, row in enumerate(rows[1:], start=2)
        if row
    ]
    return _as_table(lines)


def _parsed_line(path: Path, number: int, row: list[str]) -> dict[str, object]:
    if len(row) != len(_COLUMNS):
        raise FormatError(
            f"{path}, line {number}: it has {len(row)} cells, and the table has "
            f"{len(_COLUMNS)} columns; correct or delete the line"
        )
    line = {}
    for column, cell in zip(_COLUMNS, row, strict=True):
        try:
            line[column] = _parsed_cell(cell, _TYPES[column])
        except ValueError as error:
            raise FormatError(
                f"{path}, line {number}: {column} must be {error}; it is {cell!r}; "
                "correct the cell, or delete the line to train that model again"
            ) from error
    return line


def _parsed_cell(cell: str, kind: Any) -> object:
    """The value in a cell; ``ValueError`` says what it must be."""
    allows_none = type(None) in get_args(kind)
    if allows_none and not cell:
        return None
    if kind is str:
        return cell
    if kind is bool:
        if cell not in ("True", "False"):
            raise ValueError("True or False")
        return cell == "True"

    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if kind is float:
        if not math.isfinite(number):
            raise ValueError("a finite number")
        return number
    # Tables of earlier versions hold 2.0 where others of the column are empty.
    if not number.is_integer():
        raise ValueError("an integer or empty" if allows_none else "an integer")
    # Integers of many digits are not those of their float.
    return int(cell) if cell.lstrip("-").isdecimal() else int(number)


def _as_table(lines: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame(list(lines), columns=_COLUMNS)
    # Integers and None as they are: pandas would make all of them floats.
    for column in _COLUMNS:
        if type(None) in get_args(_TYPES[column]):
            values = [line[column] for line in lines]
            table[column] = pd.Series(values, dtype=object)
    return table


def add_line(
    path: Path,
    recipe: Recipe,
    task: MQAR,
    outcome: Outcome,
) -> None:
    """Write the line of a recipe, in place of an earlier line of it."""
    values = {**asdict(recipe), **asdict(task), **asdict(outcome)}
    own_key = line_key(recipe, task)
    # Read again, because another command may have added lines meanwhile; and none may
    # add one between that and the writing.
    with locked(path.parent):
        table = read_table(path)
        lines = [
            line
            for line, key in zip(_records(table), line_keys(table), strict=True)
            if key != own_key
        ]
        with replacing(path) as temporary:
            _as_table([*lines, values]).to_csv(temporary, index=False)


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    return [
        {str(column): value for column, value in line.items()}
        for line in table.to_dict(orient="records")
    ]


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
