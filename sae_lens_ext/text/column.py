"""Takes the text out of rows, and counts the rows that have none."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sae_lens_ext.errors import FormatError
from sae_lens_ext.text.decoding import without_surrogates

# After so many rows without the column, a file is taken to have no such column.
_N_WITHOUT = 1000


class TextColumn:
    """The column of text of one or more files.

    Attributes:
        name: its name.
        n_texts: number of texts so far.
        n_without: number of rows without a text so far, by file.
    """

    def __init__(self, name: str) -> None:
        """A column of which nothing is read yet."""
        self.name = name
        self.n_texts = 0
        self.n_without: dict[str, int] = {}

    def of_rows(self, rows: Iterable[tuple[int, Any]], where: str) -> Iterator[str]:
        """The texts of rows that are mappings from names of columns.

        Args:
            rows: with their numbers.
            where: the file, for messages.

        Raises:
            FormatError: a row is not a mapping, holds a value other than text in the
                column, or none of the first rows has the column.
        """
        other_names: dict[str, None] = {}
        n_before = 0
        has_column = False
        for number, row in rows:
            if not isinstance(row, Mapping):
                raise FormatError(
                    f"{where} cannot be read to its end: row {number} must be an "
                    f"object with {self.name!r}; it is {_described(row)}"
                )
            if self.name not in row and not has_column:
                other_names.update(dict.fromkeys(row))
                n_before += 1
                if n_before >= _N_WITHOUT:
                    break
            has_column = has_column or self.name in row
            yield from self.of_cell(row.get(self.name), where, number)

        if n_before and not has_column:
            raise FormatError(
                f"{where} has no column {self.name!r}; it has "
                f"{', '.join(map(str, other_names)) or 'none'}"
            )

    def of_cell(self, cell: Any, where: str, number: int) -> Iterator[str]:
        """The text in a cell; nothing where it is null, which is counted.

        Raises:
            FormatError: a value other than text, or bytes that are not UTF-8.
        """
        if cell is None:
            self.n_without[where] = self.n_without.get(where, 0) + 1
            return
        if isinstance(cell, bytes):
            cell = _decoded(cell, where, number)
        if not isinstance(cell, str):
            raise FormatError(
                f"{where}: {self.name!r} of row {number} must be text; it is "
                f"{_described(cell)}; name another column"
            )
        self.n_texts += 1
        yield without_surrogates(cell)

    def finish(self, source: str, stacklevel: int) -> None:
        """Warn of rows without a text.

        Raises:
            FormatError: no row had one.
        """
        n_rows = sum(self.n_without.values())
        names = ", ".join(f"{n} in {where}" for where, n in self.n_without.items())
        if not self.n_texts:
            detail = f"its {self.name!r} is null: {names}" if n_rows else "it is empty"
            raise FormatError(f"{source} holds no text; {detail}")
        if n_rows:
            warnings.warn(
                f"{source}: left out {n_rows} rows without {self.name!r}: {names}",
                stacklevel=stacklevel + 1,
            )


def _decoded(cell: bytes, where: str, number: int) -> str:
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{where}: row {number} is not text in UTF-8: byte {error.start} is "
            f"0x{cell[error.start]:02x}"
        ) from error


def _described(value: object) -> str:
    text = str(value)
    shortened = text if len(text) <= 40 else f"{text[:40]}..."
    names = {
        type(None): "null",
        bool: f"{text.lower()}, a truth value",
        int: f"the number {text}",
        float: f"the number {value:g}" if isinstance(value, float) else "",
        list: f"the list {shortened}",
        dict: f"the object {shortened}",
        str: f"the text {shortened!r}",
    }
    return names.get(type(value), f"a value of type {type(value).__name__}")
