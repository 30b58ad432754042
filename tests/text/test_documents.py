import itertools
import json

import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.text import default_documents, documents, pack, split_documents


def test_default_documents_are_prose_in_a_fixed_order():
    first, again = (list(itertools.islice(default_documents(), 60)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 60
    assert sum(map(len, first)) > 100_000


def test_the_split_depends_on_nothing_but_the_text():
    texts = [f"document {i}" for i in range(1000)]
    held_out, kept = (
        list(split_documents(texts, held_out=True)),
        list(split_documents(texts, held_out=False)),
    )
    assert sorted(held_out + kept) == sorted(texts)
    assert 60 < len(held_out) < 140
    assert list(split_documents(reversed(texts), held_out=True)) == held_out[::-1]


def test_rows_begin_with_bos_and_never_mix_documents():
    tokenizer = tiny.tokenizer()
    texts = [" ".join(f"w{i}" for i in range(20)), "w1 w2", " ".join(["w50"] * 9)]
    rows = pack(texts, tokenizer, n_rows=10, context=8)
    assert rows.tolist() == [[2, *range(4, 11)], [2, *range(11, 18)], [2, *[54] * 7]]
    assert pack(texts, tokenizer, n_rows=1, context=8).shape == (1, 8)
    with pytest.raises(
        sle.InvalidArgument, match="no document has the 99 tokens of a single row"
    ):
        pack(texts, tokenizer, n_rows=1, context=100)
    with pytest.raises(
        sle.InvalidArgument,
        match="n_rows of at least 1 and context of at least 2; got 0 and 8",
    ):
        pack(texts, tokenizer, n_rows=0, context=8)


def test_documents_come_from_text_jsonl_and_parquet(tmp_path):
    pandas = pytest.importorskip(
        "pandas", reason="pandas writes the Parquet file of this test"
    )
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    (tmp_path / "b.jsonl").write_text(
        "\n".join(json.dumps({"text": text, "id": 1}) for text in ("three", "four"))
    )
    (tmp_path / "sub").mkdir()
    pandas.DataFrame({"text": ["five"], "id": [2]}).to_parquet(
        tmp_path / "sub" / "c.parquet"
    )
    (tmp_path / "ignored.bin").write_bytes(b"\0")
    assert list(documents(tmp_path)) == ["one\n\ntwo", "three", "four", "five"]
    assert list(documents(tmp_path / "b.jsonl")) == ["three", "four"]
    with pytest.raises(sle.FormatError, match="has no column 'body'; it has text, id"):
        list(documents(tmp_path / "b.jsonl", column="body"))


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(
        sle.FormatError, match="holds no .txt, .md, .jsonl, .json, .parquet file"
    ):
        list(documents(tmp_path))


def test_no_source_means_the_default_text():
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
def test_a_broken_file_is_said(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(sle.FormatError, match=f"{name} cannot be read to its end"):
        list(documents(tmp_path))


def test_no_source_at_all_is_not_the_current_folder():
    with pytest.raises(
        sle.FormatError,
        match="give a file, a folder or the name of a dataset to read text from; got ''",
    ):
        list(documents(""))
