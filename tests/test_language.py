"""Turns of phrase that the first version had are held at zero."""

import re
import subprocess

import pytest
from paths import REPOSITORY

# Each with the plain way to say it. Split words keep this file out of its own count.
TURNS = {
    r"(what|that|which) (is|are) (no|none)\b": "an invalid option; not a tensor",
    r"\blike" + r"wise\b": "the sentence it stands for, or 'Same as in `f`.'",
    r"_(is|are)_(none|said|told)\b": "test_rejects_invalid_k",
    r"\b(is|are) (said|told) (of|by)": "raises; warns; the error names the file",
    r"refuse" + r" what": "Raises InvalidArgument if x is not a tensor",
}
SUFFIXES = (".py", ".md", ".ipynb", ".toml", "Makefile")


def turns_of(text: str) -> list[str]:
    """The turns of phrase in a text, as they stand there."""
    return [
        match.group(0)
        for pattern in TURNS
        for match in re.finditer(pattern, text.lower())
    ]


def written_files() -> list[str]:
    """Files of the repository that people write, by path."""
    command = ["git", "ls-files"]
    listed = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return [path for path in listed.stdout.split() if path.endswith(SUFFIXES)]


def test_no_file_has_an_old_turn_of_phrase():
    turns = {
        path: turns_of((REPOSITORY / path).read_text(encoding="utf-8"))
        for path in written_files()
    }
    assert {path: found for path, found in turns.items() if found} == {}


@pytest.mark.parametrize(
    "sentence",
    [
        "What" + " is no tensor raises.",
        "scale: Like" + "wise.",
        "def test_jobs_that_are" + "_none(): ...",
        "A broken file is said" + " of its path.",
        "Refuse" + " what does not fit.",
    ],
)
def test_a_planted_turn_is_found(sentence):
    assert len(turns_of(sentence)) == 1
