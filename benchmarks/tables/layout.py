"""Cells and lines of tables."""

Row = dict[str, float]


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown, line by line."""
    lines = (header, ["---"] * len(header), *rows)
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def ms(seconds: float) -> str:
    """A time in milliseconds."""
    digits = 0 if seconds >= 0.01 else 1
    return f"{1e3 * seconds:,.{digits}f} ms"


def mb(n_bytes: float) -> str:
    """An amount of memory in megabytes."""
    return f"{n_bytes / 1e6:,.0f} MB"


def gpu_rows(rows: list[Row], key: str) -> dict[float, Row]:
    """The rows of a GPU by k or by length."""
    return {row[key]: row for row in rows}
