"""The texts that ``python -m benchmarks corpus`` has written."""

import gzip
import json
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_ext.demo import cache_folder
from sae_lens_ext.text import pack

# A row takes the beginning of a document, which must be long enough for it.
_MIN_CHARACTERS = 1000
_CONTEXT = 128


def corpus_texts(name: str, *, package: str | None = None) -> Iterator[str]:
    """The texts of a corpus, or those of one package in it.

    Raises:
        SystemExit: the corpus is not there.
    """
    path = cache_folder() / "corpora" / f"{name}.jsonl.gz"
    if not path.exists():
        raise SystemExit(f"there is no {path}: run `python -m benchmarks corpus` first")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if package in (None, row["package"]):
                yield row["text"]


def beginnings(
    texts: Iterable[str], tokenizer: Any, n_rows: int
) -> Int[Tensor, "row 128"]:
    """The beginnings of as many texts that are long enough."""
    rows: list[Tensor] = []
    for text in texts:
        if len(text) >= _MIN_CHARACTERS:
            rows.append(pack([text], tokenizer, n_rows=1, context=_CONTEXT))
        if len(rows) == n_rows:
            break
    return torch.cat(rows)


def spread_beginnings(name: str, tokenizer: Any, n_rows: int) -> Int[Tensor, "row 128"]:
    """The beginnings of documents that are spread over the whole of a corpus."""
    texts = [text for text in corpus_texts(name) if len(text) >= _MIN_CHARACTERS]
    every = len(texts) // n_rows
    return beginnings(texts[::every], tokenizer, n_rows)
