"""The text of a run: its tokenizer, and its documents on two sides.

Each document is either trained on or held out to test on, never both: one in ten is
held out, by a hash of its text, whichever the tokenizer and the seed. A second text can
be given to test on; then all of the first is trained on.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer, ByT5Tokenizer

from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.experiments.pretraining.config import BYTES, TextConfig
from sae_lens_ext.text import documents, is_held_out

Side = Literal["train", "held_out"]
"""What a document is for."""


def load_tokenizer(name: str) -> Any:
    """Load a Hugging Face tokenizer.

    ``BYTES`` stands for the one of ByT5: 256 bytes and three special tokens.

    Raises:
        FormatError: the tokenizer cannot be loaded.
        InvalidArgument: it has no token for the end of a text.
    """
    if name == BYTES:
        # The extra ids are for filling gaps in a text, which is not done here.
        return ByT5Tokenizer(extra_ids=0)

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FormatError(
            f"no tokenizer can be loaded from {name!r} ({reason}); give a folder or a "
            f"name, or {BYTES!r}"
        ) from error

    if tokenizer.eos_token_id is None:
        raise InvalidArgument(
            f"the tokenizer {name!r} has no eos token to put between documents; give "
            "another one"
        )
    return tokenizer


def describe_files(source: str | None) -> str | None:
    """Number of files and bytes of a text, by which a change of it is noticed.

    This is not a digest of the files: a text can be far longer than the part of it that
    a run reads.

    Returns:
        None if ``source`` is not a file or folder on this machine.
    """
    if not source:
        return None
    path = Path(source).expanduser()
    if not path.exists():
        return None

    files = [path]
    if not path.is_file():
        # Hidden files, of editors for example, come and go while the text stays.
        files = [
            file
            for file in path.rglob("*")
            if file.is_file() and not file.name.startswith(".")
        ]
    n_bytes = sum(file.stat().st_size for file in files)
    return f"{len(files)} files of {n_bytes} bytes"


def check_sources(text: TextConfig) -> None:
    """Read the first document of each text, which fails where there is none to read.

    Raises:
        FormatError: a text cannot be found or read.
    """
    sources = [text.text]
    if text.eval_text is not None:
        sources.append(text.eval_text)
    for source in sources:
        next(documents(source, column=text.column), None)


def documents_by_side(
    text: TextConfig, is_full: Callable[[Side], bool]
) -> Iterator[tuple[Side, str]]:
    """Documents, each with its side, until both sides are full or the text has ended.

    Args:
        text: where the documents are.
        is_full: whether a side needs no more documents; asked after each of them.
    """
    if text.eval_text is None:
        for document in documents(text.text, column=text.column):
            side: Side = "held_out" if is_held_out(document) else "train"
            yield side, document
            if is_full("train") and is_full("held_out"):
                return
        return

    # One text after the other, each read no further than it is needed.
    sources: dict[Side, str | None] = {"train": text.text, "held_out": text.eval_text}
    for side, source in sources.items():
        for document in documents(source, column=text.column):
            yield side, document
            if is_full(side):
                break
