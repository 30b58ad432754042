"""The column of text in a Parquet file; other columns are not read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError
from sae_lens_ext.text.decoding import reading

_ROWS_AT_A_TIME = 1024


def cells_of_parquet(path: Path, column: str) -> Iterator[tuple[int, bytes | None]]:
    """The cells of a column as bytes, with the numbers of their rows from 1.

    Raises:
        FormatError: not a Parquet file, a broken one, no such column, or a column that
            holds neither text nor bytes.
    """
    pyarrow = require("pyarrow", f"Reading {path}")
    parquet = require("pyarrow.parquet", f"Reading {path}")
    # Opened here, because pyarrow takes some names for addresses.
    with reading(path, pyarrow.ArrowException), path.open("rb") as binary:
        file = parquet.ParquetFile(binary)
        _check_column(pyarrow, file.schema_arrow, path, column)

        number = 0
        for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=[column]):
            # As bytes: strings of a broken file need not be UTF-8.
            cells = _as_bytes(pyarrow, batch.column(0))
            for cell in cells.to_pylist():
                number += 1
                yield number, cell


def _check_column(pyarrow: Any, schema: Any, path: Path, column: str) -> None:
    n_columns = schema.names.count(column)
    if not n_columns:
        names = ", ".join(schema.names)
        raise FormatError(f"{path} has no column {column!r}; it has {names}")
    if n_columns > 1:
        raise FormatError(f"{path} has {n_columns} columns {column!r}; rename them")

    kind = schema.field(column).type
    if not _holds_text(pyarrow.types, kind):
        raise FormatError(
            f"column {column!r} of {path} holds {kind} in its first and every other "
            "row, and must hold text; name another column"
        )


def _holds_text(types: Any, kind: Any) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        is_kind(kind)
        for is_kind in (
            types.is_null,
            types.is_string,
            types.is_large_string,
            types.is_string_view,
            types.is_binary,
            types.is_large_binary,
            types.is_binary_view,
            types.is_fixed_size_binary,
        )
    )


def _as_bytes(pyarrow: Any, cells: Any) -> Any:
    types = pyarrow.types
    if types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if types.is_string_view(cells.type):
        cells = cells.cast(pyarrow.large_string())
    if types.is_string(cells.type) or types.is_large_string(cells.type):
        return cells.cast(pyarrow.large_binary())
    return cells
