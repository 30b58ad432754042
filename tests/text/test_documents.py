"""Documents come from text, JSONL and Parquet files, or the error names the file."""

import json

import pytest

import sae_lens_ext as sle
from sae_lens_ext.text import default_documents, documents


def test_documents_come_from_text_jsonl_and_parquet(tmp_path):
    pandas = pytest.importorskip(
        "pandas", reason="pandas writes the Parquet file of this test"
    )
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    lines = [json.dumps({"text": text, "id": 1}) for text in ("three", "four")]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    (tmp_path / "sub").mkdir()
    table = pandas.DataFrame({"text": ["five"], "id": [2]})
    table.to_parquet(tmp_path / "sub" / "c.parquet")
    (tmp_path / "ignored.bin").write_bytes(b"\0")

    assert list(documents(tmp_path)) == ["one\n\ntwo", "three", "four", "five"]
    assert list(documents(tmp_path / "b.jsonl")) == ["three", "four"]
    with pytest.raises(sle.FormatError, match="has no column 'body'; it has text, id"):
        list(documents(tmp_path / "b.jsonl", column="body"))


def test_rejects_folder_without_text(tmp_path):
    with pytest.raises(
        sle.FormatError, match="holds no .txt, .md, .jsonl, .json, .parquet file"
    ):
        list(documents(tmp_path))


def test_default_source_is_the_default_text():
    assert next(documents()) == next(default_documents())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'{"text": "x"'),
        ("a.parquet", b"PAR1 no"),
        ("a.jsonl", b""),
        ("a.jsonl", b'{"text": "x"}\n{"text'),
    ],
)
def test_error_of_a_broken_file_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(sle.FormatError, match=f"{name} cannot be read to its end"):
        list(documents(tmp_path))


def test_rejects_empty_source_instead_of_reading_the_current_folder():
    with pytest.raises(
        sle.FormatError,
        match="source must be a file, a folder or the name of a dataset to read text "
        "from; got ''",
    ):
        list(documents(""))
