"""One file gives its texts, whatever its format."""

import datasets
import pytest

from sae_lens_ext.text.column import TextColumn
from sae_lens_ext.text.contents import texts_of_file
from sae_lens_ext.text.files import text_files


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "one\ntwo", ["one\ntwo"]),
        ("a.txt", "", []),
        ("a.jsonl", '{"text": "one"}\n{"text": "two"}', ["one", "two"]),
        ("a.json", '[{"text": "one"}, {"text": "two"}]', ["one", "two"]),
    ],
)
def test_reads_text_and_json(tmp_path, name, content, texts):
    path = tmp_path / name
    path.write_text(content)
    (file,) = text_files(path)
    assert list(texts_of_file(file, TextColumn("text"))) == texts


def test_reads_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": ["one", "two"]}).to_parquet(path)
    (file,) = text_files(path)
    assert list(texts_of_file(file, TextColumn("text"))) == ["one", "two"]
