"""The texts in one file, whatever its format."""

from collections.abc import Iterator

from sae_lens_ext.text.column import TextColumn
from sae_lens_ext.text.decoding import opened, text_of
from sae_lens_ext.text.files import TextFile
from sae_lens_ext.text.json_rows import rows_of_lines, rows_of_value
from sae_lens_ext.text.parquet import cells_of_parquet


def texts_of_file(file: TextFile, texts: TextColumn) -> Iterator[str]:
    """The texts in a file, in their order.

    Args:
        file: the file.
        texts: the column that holds them; it counts the rows without a text.

    Raises:
        FormatError: the file is broken, is not text, or has no such column.
    """
    where = str(file.path)
    if file.suffix == ".parquet":
        for number, cell in cells_of_parquet(file.path, texts.name):
            yield from texts.of_cell(cell, where, number)
    elif file.suffix in (".json", ".jsonl"):
        with opened(file) as characters:
            if file.suffix == ".jsonl":
                rows = rows_of_lines(characters, file.path)
            else:
                rows = rows_of_value(characters, file.path, texts.name)
            yield from texts.of_rows(rows, where)
    elif text := text_of(file):
        yield from texts.of_cell(text, where, 1)
