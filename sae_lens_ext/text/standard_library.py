"""Prose that every Python installation has: its documentation."""

import ast
import itertools
import pydoc_data.topics
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Folders with docstrings that say little, or of modules that are rarely used.
_SKIPPED_FOLDERS = {
    "test",
    "tests",
    "site-packages",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "__pycache__",
    "ensurepip",
}
# In characters.
_SHORTEST_DOCUMENT = 400
_SHORTEST_DOCSTRING = 100


def default_documents() -> Iterator[str]:
    """The language reference's topics and the standard library's docstrings, in turns.

    About 1.3 million characters, in a fixed order; the text differs a little between
    Python versions. Modules are parsed, never imported.
    """
    topics = (text for _, text in sorted(pydoc_data.topics.topics.items()))
    for pair in itertools.zip_longest(topics, docstrings()):
        yield from (text for text in pair if text)


def docstrings() -> Iterator[str]:
    """The standard library's docstrings: a document per module that has enough."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(root.rglob("*.py")):
        if _SKIPPED_FOLDERS & set(file.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue

        docstrings = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                docstring = ast.get_docstring(node) or ""
                if len(docstring) >= _SHORTEST_DOCSTRING:
                    docstrings.append(docstring)
        text = "\n\n".join(docstrings)
        if len(text) >= _SHORTEST_DOCUMENT:
            yield text
