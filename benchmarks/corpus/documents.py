"""Documents: cleaned, deduplicated and cut to a useful length."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator

_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")
_TRAILING = re.compile(r"[ \t]+\n")
# Long enough for dozens of rows of 128 tokens; short enough to mix well.
_LONGEST = 8000
_SHORTEST = 600
# Shorter paragraphs (headings, list items) may repeat.
_SHORTEST_COMPARED = 60


class Cleaner:
    """Remembers the paragraphs it has seen, and drops those that come again.

    >>> cleaner = Cleaner()
    >>> paragraph = "The same sixty characters or more, on every page of a manual."
    >>> cleaner.clean(f"One.\\n\\n{paragraph}"), cleaner.clean(f"Two.\\n\\n{paragraph}")
    ('One.\\n\\nThe same sixty characters or more, on every page of a manual.', 'Two.')
    """

    def __init__(self) -> None:
        """Start without any paragraph."""
        self._seen: set[bytes] = set()

    def clean(self, text: str) -> str:
        """The text without repeated paragraphs, blank lines and trailing spaces."""
        text = unicodedata.normalize("NFC", text).replace("\r", "").replace("\xa0", " ")
        text = _TRAILING.sub("\n", text.replace("\ufeff", "").replace("\xad", ""))
        paragraphs = _BLANK_LINES.split(text.strip())
        return "\n\n".join(filter(self._is_new, paragraphs))

    def _is_new(self, paragraph: str) -> bool:
        if not paragraph.strip():
            return False
        if len(paragraph) < _SHORTEST_COMPARED:
            return True
        key = digest(" ".join(paragraph.split()))
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new


def documents_of(texts: Iterable[str], cleaner: Cleaner) -> Iterator[str]:
    """Cut texts at paragraphs into documents of 600 to 8,000 characters."""
    for text in texts:
        size = 0
        parts: list[str] = []
        for paragraph in _paragraphs(cleaner.clean(text)):
            if size + len(paragraph) > _LONGEST and parts:
                yield "\n\n".join(parts)
                size = 0
                parts = []
            parts.append(paragraph)
            size += len(paragraph) + 2
        if size >= _SHORTEST:
            yield "\n\n".join(parts)


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs, those cut that are longer than a document."""
    for paragraph in text.split("\n\n"):
        for start in range(0, len(paragraph), _LONGEST):
            yield paragraph[start : start + _LONGEST]


def digest(text: str) -> bytes:
    """What equal texts have in common; also an order that depends on nothing else."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
