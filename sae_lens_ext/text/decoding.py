"""From the bytes of a file to characters, or an error that names the byte."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError, SaeLensExtError
from sae_lens_ext.text.files import TextFile

# The longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_CHUNK = 1 << 20
_ERRORS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
_SURROGATE = re.compile("[\ud800-\udfff]")


@contextmanager
def opened(file: TextFile) -> Iterator[io.TextIOWrapper]:
    """A file as characters: UTF-8, or what its byte-order mark says.

    Raises:
        FormatError: bytes that are not of that encoding (the error names the first), a
            broken compression, or a file that cannot be read.
    """
    with reading(file.path):
        try:
            with _binary(file) as binary:
                encoding = _encoding(binary)
                with io.TextIOWrapper(binary, encoding=encoding) as characters:
                    yield characters
        except UnicodeDecodeError as error:
            raise FormatError(_undecodable(file)) from error


@contextmanager
def reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Raise the errors of readers as ``FormatError`` with the path.

    Errors of this package already name it. ``errors`` are more kinds of errors.
    """
    try:
        yield
    except SaeLensExtError:
        raise
    except (*_ERRORS, *errors) as error:
        reason = " ".join(str(error).split())[:200]
        raise FormatError(
            f"{path} cannot be read to its end ({type(error).__name__}: {reason})"
        ) from error


def text_of(file: TextFile) -> str:
    """The whole text of a file.

    Raises:
        FormatError: see ``opened``; or the text holds NUL, as binary files do.
    """
    with opened(file) as characters:
        text = characters.read()
    position = text.find("\0")
    if position >= 0:
        raise FormatError(
            f"{file.path} is not text: character {position} is NUL; text in UTF-16 "
            "needs a byte-order mark"
        )
    return text


def without_surrogates(text: str) -> str:
    """A text with U+FFFD in the place of halves of characters.

    JSON can name such halves, and tokenizers do not accept them. Two halves that belong
    together become the character.

    >>> ascii(without_surrogates("a \\ud83d b")), without_surrogates("\\ud83d\\ude00")
    ("'a \\\\ufffd b'", '😀')
    """
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _binary(file: TextFile) -> io.BufferedReader:
    """The bytes of a file, decompressed."""
    path = file.path
    raw: Any
    if file.compression == ".gz":
        raw = gzip.GzipFile(path)
    elif file.compression == ".bz2":
        raw = bz2.BZ2File(path)
    elif file.compression == ".xz":
        raw = lzma.LZMAFile(path)  # noqa: SIM115 - the caller closes it
    elif file.compression == ".zst":
        pyarrow = require("pyarrow", f"Reading {path}")
        raw = pyarrow.CompressedInputStream(path.open("rb"), "zstd")
    else:
        return path.open("rb")
    return io.BufferedReader(raw, _CHUNK)


def _encoding(binary: io.BufferedReader) -> str:
    start = binary.peek(4)
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    return "utf-8"


def _undecodable(file: TextFile) -> str:
    """The message for a file with bytes that are not of its encoding."""
    with _binary(file) as binary:
        encoding = _encoding(binary)
        byte = _first_undecodable(binary, encoding)
    name = encoding.removesuffix("-sig").upper()
    return f"{file.path} is not text in {name}: {byte}; convert the file to UTF-8"


def _first_undecodable(binary: io.BufferedReader, encoding: str) -> str:
    """The position and the value of the first byte that cannot be decoded."""
    decoder = codecs.getincrementaldecoder(encoding)()
    n_read = 0
    chunk = b"first"
    while chunk:
        chunk = binary.read(_CHUNK)
        n_read += len(chunk)
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            # The decoder puts bytes of an unfinished character before the chunk.
            position = n_read - len(error.object) + error.start
            return f"byte {position} is 0x{error.object[error.start]:02x}"
    return "it has changed while it was read"
