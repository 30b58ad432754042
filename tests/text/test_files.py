"""Every file below a folder is read or named, and no name is a pattern."""

import os
from pathlib import Path

import pytest

import sae_lens_ext as sle
from sae_lens_ext.text import documents
from sae_lens_ext.text.files import text_files


def write(folder: Path, **contents: str) -> None:
    """Write files; two underscores in a name stand for a dot."""
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_text(content)


@pytest.mark.parametrize(
    "name", ["a[12].txt", "*.txt", "a?.txt", "{a,b}.txt", "a b.txt"]
)
def test_names_are_never_patterns(tmp_path, name):
    write(tmp_path, a1__txt="other", ab__txt="other", a__txt="other")
    folder = tmp_path / name.removesuffix(".txt")
    folder.mkdir()
    for path in (tmp_path / name, folder / name):
        path.write_text("right")
        assert list(documents(path)) == ["right"]
        assert list(documents(str(path))) == ["right"]
    assert list(documents(folder)) == ["right"]
    assert len(list(documents(tmp_path))) == 5


def test_suffixes_count_in_any_case_and_hidden_names_are_left_out(tmp_path):
    write(tmp_path, UPPER__TXT="a", Mixed__Md="b", z__JSONL='{"text": "c"}')
    for name in (".hidden.txt", "._UPPER.TXT", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\0")
    (tmp_path / ".git").mkdir()
    write(tmp_path / ".git", index__txt="x")
    assert sorted(documents(tmp_path)) == ["a", "b", "c"]
    # A hidden folder that is named is read.
    assert list(documents(tmp_path / ".git")) == ["x"]


def test_one_warning_names_all_that_is_left_out_with_reasons(tmp_path):
    write(tmp_path, a__txt="a", b__csv="b", README="c", d__parquet__gz="d")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere")

    with pytest.warns(UserWarning, match="left out 5") as caught:
        assert list(documents(tmp_path)) == ["a"]
    assert len(caught) == 1
    message = str(caught[0].message)
    for reason in (
        "README (no suffix)",
        "b.csv (.csv is not supported)",
        "broken.txt (a link that leads nowhere)",
        "d.parquet.gz (.parquet.gz is not supported)",
        "pipe.txt (not a regular file)",
    ):
        assert reason in message

    for name in ("b.csv", "pipe.txt", "broken.txt"):
        with pytest.raises(sle.FormatError, match=f"{name} cannot be read as text"):
            documents(tmp_path / name)


def test_links_are_followed_and_each_folder_is_read_once(tmp_path):
    (tmp_path / "texts").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    write(outside, b__txt="b")
    write(tmp_path / "texts", a__txt="a")
    (tmp_path / "texts" / "up").symlink_to(tmp_path / "texts")
    (tmp_path / "texts" / "out").symlink_to(outside)
    assert list(documents(tmp_path / "texts")) == ["a", "b"]


def test_order_is_that_of_the_paths(tmp_path):
    (tmp_path / "b").mkdir()
    write(tmp_path / "b", a__txt="2")
    write(tmp_path, c__txt="3", a__txt="1")
    paths = [file.path.name for file in text_files(tmp_path)]
    assert paths == ["a.txt", "a.txt", "c.txt"]
    assert list(documents(tmp_path)) == ["1", "2", "3"]
