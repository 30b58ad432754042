"""The code blocks of the documents, and how tests run them."""

import re
import runpy

from paths import REPOSITORY

DOCS = REPOSITORY / "docs"


def text_of(page: str) -> str:
    """The text of a page of the documentation."""
    return (DOCS / page).read_text(encoding="utf-8")


def section_of(page: str, heading: str) -> str:
    """The text of a page below a heading of the second level, up to the next one."""
    _, _, after = text_of(page).partition(f"## {heading}\n")
    section, _, _ = after.partition("\n## ")
    return section


def python_blocks(text: str) -> list[str]:
    """The Python of every code block in a text."""
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def run_blocks(working_folder, blocks, /, **names) -> dict:
    """Run blocks one after the other, with ``names`` defined; return what they define.

    In a file in ``working_folder``, because nnsight reads the source of a trace.
    """
    script = working_folder / "blocks.py"
    script.write_text("\n".join(blocks))
    return runpy.run_path(str(script), init_globals=names)
