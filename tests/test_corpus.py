"""The corpus: readers of unusual files, and documents without repetitions."""

import gzip
import struct
import zlib

import pytest

from benchmarks.corpus.documents import Cleaner, documents_of
from benchmarks.corpus.packages import HELD_OUT, TRAINING
from benchmarks.corpus.readers import texts_of

LICENCE = "This paragraph is long enough to be compared, and is on every page."


def test_repeated_paragraphs_are_dropped():
    cleaner = Cleaner()
    pages = [cleaner.clean(f"{name}.\n\n{LICENCE}\r\n\n") for name in ("One", "Two")]
    assert pages == [f"One.\n\n{LICENCE}", "Two."]


def test_documents_are_cut_at_paragraphs_and_are_not_short():
    paragraphs = [f"{number} " + "word " * 400 for number in range(10)]
    documents = list(documents_of(["\n\n".join(paragraphs), "too short"], Cleaner()))
    assert "\n\n".join(documents) == "\n\n".join(text.strip() for text in paragraphs)
    assert all(600 <= len(document) <= 8000 for document in documents)


def test_fortunes_become_paragraphs(tmp_path):
    path = tmp_path / "wisdom"
    path.write_text("A saying.\n\n\t-- Someone\n%\nAnother.\n%\n")
    assert list(texts_of("fortunes", path, tmp_path)) == [
        "A saying.\n\t-- Someone\n\nAnother.\n\n"
    ]


def test_sword_blocks_become_text(tmp_path):
    block = zlib.compress(b"<p>In the <w>beginning</w></p><p>Again</p>")
    (tmp_path / "ot.bzz").write_bytes(b"--" + block)
    index = tmp_path / "ot.bzs"
    index.write_bytes(struct.pack("<3I", 2, len(block), 0))
    (text,) = texts_of("sword", index, tmp_path)
    assert text.split() == ["In", "the", "beginning", "Again"]


@pytest.mark.parametrize("is_compressed", [False, True])
def test_plain_text_may_be_compressed(tmp_path, is_compressed):
    data = "naïve".encode("latin-1")
    path = tmp_path / "text"
    path.write_bytes(gzip.compress(data) if is_compressed else data)
    assert list(texts_of("plain", path, tmp_path)) == ["naïve"]


def test_campaigns_give_what_people_say(tmp_path):
    path = tmp_path / "scenario.cfg"
    path.write_text(
        'message= _ "We have to cross the river before the night\n falls on us."\n'
        'name= _ "Kaleh"\n'
    )
    assert list(texts_of("wesnoth", path, tmp_path)) == [
        "We have to cross the river before the night falls on us."
    ]


def test_held_out_packages_are_not_trained_on():
    held_out = {package.name for package in HELD_OUT.values()}
    assert not held_out & {package.name for package in TRAINING}
