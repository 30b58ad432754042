"""Bytes become the right characters, or an error names the first wrong byte."""

import bz2
import gzip
import lzma

import pytest

import sae_lens_ext as sle
from sae_lens_ext.text import documents
from sae_lens_ext.text.decoding import without_surrogates

TEXT = "hello wörld 😀\nsecond line"
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
COMPRESSIONS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_byte_order_marks_say_the_encoding(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
    (tmp_path / "b.jsonl").write_bytes(
        '{"text": "ö"}\r\n{"text": "b"}'.encode(encoding)
    )
    assert list(documents(tmp_path)) == [TEXT, "ö", "b"]


def test_big_endian_marks_too(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert list(documents(tmp_path)) == [TEXT]


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_files_are_read_like_others(tmp_path, suffix):
    compress = COMPRESSIONS[suffix]
    (tmp_path / f"a.txt{suffix}").write_bytes(compress(TEXT.encode("utf-16")))
    rows = b'[{"text": "b"}, {"text": "c"}]'
    (tmp_path / f"b.json{suffix.upper()}").write_bytes(compress(rows))
    assert list(documents(tmp_path)) == [TEXT, "b", "c"]

    whole = compress(TEXT.encode() * 99)
    for content in (whole[:-9], b"not compressed at all"):
        (tmp_path / f"a.txt{suffix}").write_bytes(content)
        with pytest.raises(sle.FormatError, match=r"a.txt.* cannot be read to its end"):
            list(documents(tmp_path))


def test_zst_files_of_several_frames_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow reads .zst files")
    frames = [pyarrow.compress(b, "zstd", asbytes=True) for b in (b"one ", b"two")]
    (tmp_path / "a.txt.zst").write_bytes(b"".join(frames))
    assert list(documents(tmp_path)) == ["one two"]
    (tmp_path / "a.txt.zst").write_bytes(b"not compressed")
    with pytest.raises(sle.FormatError, match="a.txt.zst cannot be read to its end"):
        list(documents(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("café".encode("latin-1"), "UTF-8: byte 3 is 0xe9; convert the file to UTF-8"),
        (b"\xef\xbb\xbfab\xff", "UTF-8: byte 5 is 0xff"),
        (b"\xff\xfea\0\x3d\xd8b\0", "UTF-16: byte 4 is 0x3d"),
        (b"\xff\xfea\0b", "UTF-16: byte 4 is 0x62"),
        (b"x" * (1 << 20) + b"\xe4\xb8", "UTF-8: byte 1048576 is 0xe4"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.md.gz"])
def test_error_names_the_file_and_the_byte(tmp_path, name, content, message):
    if name.endswith(".gz"):
        content = gzip.compress(content)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(sle.FormatError, match=f"{name} is not text in {message}"):
        list(documents(tmp_path))


def test_text_with_nul_is_binary(tmp_path):
    (tmp_path / "a.txt").write_bytes("without a mark".encode("utf-16-le"))
    with pytest.raises(sle.FormatError, match=r"a.txt is not text: character 1 is NUL"):
        list(documents(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ö 😀", "plain ö 😀"),
        ("a \ud83d b", "a \ufffd b"),
        ("\ude00", "\ufffd"),
        ("end \ud83d", "end \ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
    ],
)
def test_halves_of_characters_are_replaced(text, expected):
    assert without_surrogates(text) == expected
