"""The table of ``sweep_k`` as text, for terminals."""

from collections.abc import Mapping
from typing import Any

# Column of the text -> column of the table, width, and decimals of its numbers.
_COLUMNS = {
    "k": ("k", 14, 0),
    "l0": ("l0", 6, 1),
    "fvu": ("fvu", 7, 3),
    "ce": ("ce", 7, 3),
    "recovered": ("ce_recovered", 10, 3),
    "(zero end)": ("ce_recovered_zero", 10, 3),
    "kl": ("kl", 7, 3),
}


def sweep_as_text(sweep: Any) -> str:
    """The rows of a sweep between its ends, as lines of one width.

    Args:
        sweep: a table of ``sweep_k``.
    """
    ends = sweep.attrs
    bare = {
        "fvu": 0.0,
        "ce": ends["ce_bare"],
        "ce_recovered": 1.0,
        "ce_recovered_zero": 1.0,
        "kl": 0.0,
    }
    mean = {"fvu": 1.0, "ce": ends["ce_mean"], "ce_recovered": 0.0}
    zero = {"ce": ends["ce_zero"], "ce_recovered_zero": 0.0}

    lines = [_line(list(_COLUMNS)), _line(_cells("bare model", bare))]
    rows = sweep.to_dict(orient="records")
    for row, has_no_k in zip(rows, sweep["k"].isna(), strict=True):
        # An SAE that was not trained at a k has a row of every active feature.
        name = "all" if has_no_k else str(int(row["k"]))
        lines.append(_line(_cells(name, row)))
    lines.append(_line(_cells("mean-ablated", mean)))
    lines.append(_line(_cells("zero-ablated", zero)))
    return "\n".join(lines)


def _cells(name: str, values: Mapping[str, Any]) -> list[str]:
    """One cell per column: the row's name, then a number or a blank."""
    cells = [name]
    # The first column holds the names.
    _, *columns = _COLUMNS.values()
    for column, _, decimals in columns:
        cells.append(f"{values[column]:.{decimals}f}" if column in values else "")
    return cells


def _line(cells: list[str]) -> str:
    pairs = zip(cells, _COLUMNS.values(), strict=True)
    padded = [f"{cell:>{width}}" for cell, (_, width, _) in pairs]
    # Empty cells at the end would leave blanks there.
    return " ".join(padded).rstrip()
