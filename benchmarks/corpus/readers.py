"""From the files of a package to plain text, one function per kind of file."""

import bz2
import gzip
import lzma
import re
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.corpus.packages import Reader

_OVERSTRIKE = re.compile(".\b")
_BLANK_LINE = re.compile(r"\n\s*\n")
_TAG = re.compile(r"<[^>]*>")
_END_OF_BLOCK = re.compile(r"</(?:p|div|l|lg|title|item)>|<(?:lb|milestone)[^>]*/>")
_WESNOTH_STRING = re.compile(r'(?:message|story|description)\s*=\s*_\s*"([^"]{40,})"')


def texts_of(reader: Reader, path: Path, tools: Path) -> Iterator[str]:
    """The texts in one file.

    Args:
        reader: which function reads it.
        path: the file, compressed with gzip or not.
        tools: folder with the programs of ``TOOLS``.
    """
    if reader == "man":
        yield _man(path, tools)
    else:
        yield from _READERS[reader](path)


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    # A dictzip file is a gzip file with an index.
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _plain(path: Path) -> Iterator[str]:
    yield _decoded(_bytes(path))


def _html(path: Path) -> Iterator[str]:
    """The main text of a page, without its navigation."""
    import trafilatura

    text = trafilatura.extract(
        _decoded(_bytes(path)), fast=True, include_comments=False, include_tables=True
    )
    yield text or ""


def _man(path: Path, tools: Path) -> str:
    # The widest there is, so that most paragraphs are one line.
    command = [str(tools / "mandoc"), "-T", "utf8", "-O", "width=900"]
    page = subprocess.run(command, input=_bytes(path), capture_output=True, check=False)
    return _OVERSTRIKE.sub("", page.stdout.decode("utf-8", "replace"))


def _dictd(path: Path) -> Iterator[str]:
    """The articles of a dictionary."""
    yield _decoded(_bytes(path))


def _mallard(path: Path) -> Iterator[str]:
    """Titles and paragraphs of a Mallard or DocBook page."""
    from lxml import etree

    parser = etree.XMLParser(recover=True, resolve_entities=False)
    root = etree.fromstring(_bytes(path), parser)
    if root is None:
        return
    blocks = root.iter("{*}title", "{*}p", "{*}para")
    lines = [" ".join("".join(block.itertext()).split()) for block in blocks]
    yield "\n\n".join(lines)


def _sword(path: Path) -> Iterator[str]:
    """The blocks of a compressed SWORD module, whose index is ``path``.

    A record of the index is the offset, compressed size and size of a block.
    """
    blocks = path.with_suffix(path.suffix[:-1] + "z").read_bytes()
    for offset, length, _ in struct.iter_unpack("<3I", path.read_bytes()):
        text = _decoded(zlib.decompress(blocks[offset : offset + length]))
        text = _END_OF_BLOCK.sub("\n\n", text.replace("\x00", ""))
        yield _TAG.sub("", text)


def _r_data(path: Path) -> Iterator[str]:
    """The character vectors of an R package's data, whose index is ``path``."""
    import rdata

    database = path.with_suffix(".rdb").read_bytes()
    index = rdata.conversion.convert(rdata.parser.parse_data(path.read_bytes()))
    for _, (offset, length) in sorted(index["variables"].items()):
        record = database[offset : offset + length]
        lines = rdata.conversion.convert(rdata.parser.parse_data(_r_record(record)))
        yield "\n".join(str(line) for line in lines)


def _r_record(record: bytes) -> bytes:
    """Four bytes of length, perhaps a letter for the compression, and the data."""
    match record[4:5]:
        case b"Z":
            filters = [{"id": lzma.FILTER_LZMA2}]
            return lzma.decompress(record[5:], lzma.FORMAT_RAW, filters=filters)
        case b"2":
            return bz2.decompress(record[5:])
    return zlib.decompress(record[4:])


def _wesnoth(path: Path) -> Iterator[str]:
    """What the people of a campaign say."""
    lines = _WESNOTH_STRING.findall(_decoded(_bytes(path)))
    yield "\n\n".join(" ".join(line.split()) for line in lines)


def _fortunes(path: Path) -> Iterator[str]:
    """The fortunes of a file as paragraphs."""
    if path.suffix in (".dat", ".u8"):
        return
    fortunes = _decoded(_bytes(path)).split("\n%\n")
    yield "\n\n".join(_BLANK_LINE.sub("\n", fortune) for fortune in fortunes)


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "html": _html,
    "plain": _plain,
    "dictd": _dictd,
    "mallard": _mallard,
    "sword": _sword,
    "r_data": _r_data,
    "wesnoth": _wesnoth,
    "fortunes": _fortunes,
}
