"""Parquet: only the column of text is read, as strings or as bytes."""

import datetime

import pytest

import sae_lens_ext as sle
from sae_lens_ext.text import documents

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow reads and writes Parquet")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow reads Parquet")

KINDS = [
    pyarrow.string(),
    pyarrow.large_string(),
    pyarrow.string_view(),
    pyarrow.binary(),
    pyarrow.large_binary(),
    pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
]


def write(path, texts, kind, **columns):
    parquet.write_table(
        pyarrow.table({"text": pyarrow.array(texts, kind), **columns}), path
    )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_text_is_read_from_columns_of_strings_and_bytes(tmp_path, kind):
    write(tmp_path / "a.parquet", ["ö", "b", "b"], kind, id=[1, 2, 3])
    assert list(documents(tmp_path)) == ["ö", "b", "b"]


def test_null_rows_are_left_out_and_counted(tmp_path):
    write(tmp_path / "a.parquet", ["a", None, "b"], pyarrow.string())
    write(tmp_path / "b.parquet", [None, None], pyarrow.null())
    with pytest.warns(UserWarning, match=r"left out 3 rows .* 1 in .*a.parquet, 2 in"):
        assert list(documents(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "int64"),
        ([["a"]], "list<element: string>"),
        ([datetime.datetime(2024, 1, 1)], "timestamp[us]"),
    ],
)
def test_columns_of_other_values_are_errors(tmp_path, values, kind):
    write(tmp_path / "a.parquet", values, None)
    with pytest.raises(sle.FormatError) as caught:
        list(documents(tmp_path))
    assert f"a.parquet holds {kind} in its first and every other row" in str(
        caught.value
    )


def test_bytes_that_are_not_utf8_are_an_error_with_row_and_byte(tmp_path):
    write(tmp_path / "a.parquet", [b"ok"] * 1500 + [b"caf\xe9"], pyarrow.binary())
    message = r"a.parquet: row 1501 is not text in UTF-8: byte 3 is 0xe9"
    with pytest.raises(sle.FormatError, match=message):
        list(documents(tmp_path))


def test_other_columns_are_not_looked_at(tmp_path):
    write(
        tmp_path / "a.parquet",
        ["a"],
        pyarrow.string(),
        **{"text.raw": [1], "b": [{"c": 1}]},
    )
    assert list(documents(tmp_path)) == ["a"]
    with pytest.raises(
        sle.FormatError, match="no column 'body'; it has text, text.raw"
    ):
        list(documents(tmp_path, column="body"))
