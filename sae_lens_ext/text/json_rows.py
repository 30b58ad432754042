"""The rows of JSON files, of which several shapes are in use.

The file is parsed here, with Python's own parser: it raises where a row is nested too
deeply, and the type of one row does not bind those after it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from sae_lens_ext.errors import FormatError

Rows = Iterator[tuple[int, Any]]
"""Values with their numbers, counted from 1."""

# In characters. Longer ones would take memory that nobody expects of a line.
_LONGEST_LINE = 1 << 28
_LONGEST_VALUE = 1 << 30
# Python's parser goes one call deeper with each level.
_DEEPEST = 500
# Brackets, and strings, whose brackets do not count.
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


def rows_of_lines(characters: TextIOWrapper, path: Path) -> Rows:
    """The value in every line, with the number of the line; empty lines have none.

    Raises:
        FormatError: a line that is not JSON, is nested too deeply or is too long.
    """
    for number, line in _lines(characters, path):
        yield number, _parsed(line, f"{path} cannot be read to its end: row {number}")


def rows_of_value(characters: TextIOWrapper, path: Path, column: str) -> Rows:
    """The rows of a file with one JSON value, or with JSON lines in spite of its name.

    A list has a row per item. An object is one row, or a table if it has a list (or, as
    pandas writes it, an object) of texts in ``column``.

    Raises:
        FormatError: a file that is not JSON, is nested too deeply or is too long.
    """
    lines = _lines(characters, path)
    number, line = next(lines, (0, ""))
    if not number:
        return
    following = next(lines, None)

    # An object that ends with the first line, and more after it, are JSON lines.
    if following is not None and _is_object(line):
        where = f"{path} cannot be read to its end: row"
        yield number, _parsed(line, f"{where} {number}")
        number, line = following
        yield number, _parsed(line, f"{where} {number}")
        for number, line in lines:
            yield number, _parsed(line, f"{where} {number}")
        return

    parts = [line]
    if following is not None:
        parts.append(following[1])
    n_characters = sum(len(part) for part in parts)
    for _, line in lines:
        parts.append(line)
        n_characters += len(line)
        if n_characters > _LONGEST_VALUE:
            raise FormatError(
                f"{path} holds one JSON value of more than {_LONGEST_VALUE} "
                "characters; write it as JSON lines (.jsonl), a row in each"
            )
    value = _parsed("".join(parts), f"{path} cannot be read to its end: it")
    yield from enumerate(_items(value, column), start=1)


def _items(value: Any, column: str) -> list[Any]:
    if isinstance(value, list):
        return value
    cells = value.get(column) if isinstance(value, Mapping) else None
    if isinstance(cells, Mapping):
        cells = list(cells.values())
    if isinstance(cells, list):
        return [{column: cell} for cell in cells]
    return [value]


def _lines(characters: TextIOWrapper, path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers."""
    number = 0
    while line := characters.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise FormatError(
                f"{path}: line {number} has more than {_LONGEST_LINE} characters; a "
                "row of JSON must be on a line of its own"
            )
        if not line.isspace():
            yield number, line


def _is_object(line: str) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        return isinstance(_parsed(line, ""), dict)
    except FormatError:
        return False


def _parsed(text: str, subject: str) -> Any:
    """Parse a JSON value; ``subject`` begins the message of an error."""
    if _depth(text) > _DEEPEST:
        raise FormatError(f"{subject} is nested more than {_DEEPEST} levels deep")
    try:
        # As floats, because integers of thousands of digits cannot be converted.
        return json.loads(text, parse_int=float)
    except RecursionError as error:
        raise FormatError(f"{subject} is nested too deeply") from error
    except ValueError as error:
        raise FormatError(f"{subject} is not JSON ({error})") from error


def _depth(text: str) -> int:
    """The number of brackets that are open at a time, at most."""
    # An upper bound that is much faster to find.
    n_brackets = text.count("[") + text.count("{")
    if n_brackets <= _DEEPEST:
        return n_brackets

    depth = 0
    deepest = 0
    for match in _BRACKETS.finditer(text):
        bracket = match[0]
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "]}":
            depth -= 1
    return deepest
