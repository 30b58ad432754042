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

    left_out = r"left out 1 that cannot be read as text: ignored.bin \(.bin is not"
    with pytest.warns(UserWarning, match=left_out):
        texts = list(documents(tmp_path))
    assert texts == ["one\n\ntwo", "three", "four", "five"]
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
        ("a.jsonl", b'{"text": "x"}\n{"text'),
    ],
)
def test_error_of_a_broken_file_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(sle.FormatError, match=f"{name} cannot be read to its end"):
        list(documents(tmp_path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_empty_file_is_left_out_beside_another_and_an_error_alone(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(sle.FormatError, match="holds no text; it is empty"):
        list(documents(tmp_path))
    (tmp_path / "other.txt").write_text("other")
    assert list(documents(tmp_path)) == ["other"]


def test_rows_without_text_are_left_out_and_counted(tmp_path):
    rows = ['{"text": "a"}', '{"text": null}', "", '{"id": 1}', '{"text": "b"}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    with pytest.warns(
        UserWarning, match=r"left out 2 rows without 'text': 2 in .*a.js"
    ):
        assert list(documents(tmp_path)) == ["a", "b"]


@pytest.mark.usefixtures("without_shape_checks")
def test_source_is_checked_before_the_first_document(tmp_path):
    for name in ("missing.jsonl", str(tmp_path / "missing"), "texts/*", "~nobody/a"):
        with pytest.raises(sle.FormatError, match="no file or folder|cannot be read"):
            documents(name)
    with pytest.raises(sle.FormatError, match="no file or folder 'a.*b' here"):
        documents("a\0b")
    with pytest.raises(sle.InvalidArgument, match="column must be a string; got 3"):
        documents(tmp_path, column=3)


def test_dataset_on_the_hub_is_streamed_and_its_errors_name_it(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the hub is read by datasets")

    def load_dataset(name, split, streaming):
        assert (name, split, streaming) == ("owner/name", "train", True)
        yield {"text": "a", "id": 1}
        yield {"text": b"b"}
        raise RuntimeError("cut off")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    texts = documents("owner/name")
    assert [next(texts), next(texts)] == ["a", "b"]
    with pytest.raises(sle.FormatError, match="owner/name cannot be read to its end"):
        next(texts)


def test_rejects_empty_source_instead_of_reading_the_current_folder():
    with pytest.raises(
        sle.FormatError,
        match="source must be a file, a folder or the name of a dataset to read text "
        "from; got ''",
    ):
        list(documents(""))
