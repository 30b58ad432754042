"""From text to the rows of every step.

1. Documents are split by a hash of each: one in ten is held out, whichever tokenizer and seed. No document is on both sides.
2. The documents of a side are tokenized, each followed by the end-of-text token, and written to one file until there are enough.
3. The file is cut into rows of ``seq_len`` + 1 tokens of which neighbours share one, so that every token is predicted once.
4. Every pass over the rows has an order of its own, which depends on nothing but the seed and the number of the pass.

So a step's rows follow from its number, and every model of a run, interrupted or not, reads the same.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm
from transformers import AutoTokenizer, ByT5Tokenizer

from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.experiments.pretraining.config import (
    BYTES,
    PretrainConfig,
    TextConfig,
)
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.text import documents, is_held_out

_FACTS = "tokens.json"


class TokenRows(NamedTuple):
    """A long text as rows of tokens."""

    tokens: Any
    """[token], an array, possibly on disk."""
    seq_len: int

    def __len__(self) -> int:
        """How many rows there are."""
        return max(0, (len(self.tokens) - 1) // self.seq_len)

    def at(self, rows: Iterable[int]) -> Int[Tensor, "row pos"]:
        """These rows, ``seq_len`` + 1 tokens each."""
        found = [
            self.tokens[row * self.seq_len : (row + 1) * self.seq_len + 1]
            for row in rows
        ]
        return torch.from_numpy(np.stack(found).astype(np.int64))


def rows_of_step(step: int, n_rows: int, batch_size: int, seed: int) -> list[int]:
    """Which rows a step reads: the next ``batch_size`` of endless passes, each over all rows in an order of its own.

    >>> [rows_of_step(step, n_rows=4, batch_size=2, seed=0) for step in range(4)]
    [[2, 0], [1, 3], [3, 0], [2, 1]]
    """
    found: list[int] = []
    for number in range(
        step * batch_size // n_rows, -(-(step + 1) * batch_size // n_rows)
    ):
        first = max(0, step * batch_size - number * n_rows)
        found += _order(number, n_rows, seed)[
            first : (step + 1) * batch_size - number * n_rows
        ].tolist()
    return found


def load_tokenizer(name: str) -> Any:
    """A Hugging Face tokenizer; ``BYTES`` is ByT5's, 256 bytes and three special tokens.

    Raises:
        FormatError: no such tokenizer.
        InvalidArgument: it has no token for the end of a text.
    """
    if name == BYTES:
        return ByT5Tokenizer(extra_ids=0)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise FormatError(
            f"no tokenizer can be loaded from {name!r} ({said}); give a folder or a name, or {BYTES!r}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise InvalidArgument(
            f"the tokenizer {name!r} has no eos token to put between documents; give another one"
        )
    return tokenizer


def text_files(source: str | None) -> str | None:
    """How many files and bytes a text has, by which to tell that it was changed; None for what is not in files here.

    Not a digest of them: a text can be far longer than what a run reads of it.
    """
    path = Path(source or "").expanduser()
    if not source or not path.exists():
        return None
    files = (
        [path]
        if path.is_file()
        else [
            file
            for file in path.rglob("*")
            if file.is_file() and not file.name.startswith(".")
        ]
    )
    return f"{len(files)} files of {sum(file.stat().st_size for file in files)} bytes"


def check_text(folder: Path, config: PretrainConfig, text: TextConfig) -> None:
    """Refuse what ``prepare_tokens`` cannot even begin with; nothing is written, and no more than one document of each text is read.

    Raises:
        FormatError: no text.
        InvalidArgument: fewer tokens to test on than one sequence has.
    """
    if text.eval_tokens < config.seq_len:
        raise InvalidArgument(
            f"eval_tokens={text.eval_tokens} are less than one sequence of seq_len={config.seq_len}; test on more"
        )
    if not (folder / _FACTS).exists():
        for source in (
            text.text,
            *([] if text.eval_text is None else [text.eval_text]),
        ):
            next(documents(source, column=text.column), None)


def prepare_tokens(
    folder: Path,
    config: PretrainConfig,
    text: TextConfig,
    tokenizer: Any,
    *,
    progress: bool = True,
) -> tuple[TokenRows, TokenRows]:
    """Rows to train on and rows to test on; written to ``folder`` by the first call, read from there by later ones of the same settings.

    Raises:
        FormatError: no text, or files in ``folder`` that are not as they were written.
        InvalidArgument: too little of it, or a tokenizer that gives ids it says it has not.
    """
    facts, files = (
        folder / _FACTS,
        {"train": folder / "train.bin", "held_out": folder / "held_out.bin"},
    )
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    if not facts.exists():
        # Never more than the run reads.
        wanted = [config.tokens + 1, text.eval_tokens + 1]
        with ExitStack() as stack:
            bar = stack.enter_context(
                tqdm(
                    total=sum(wanted),
                    desc="tokens",
                    unit="token",
                    unit_scale=True,
                    disable=not progress,
                )
            )
            opened = [
                stack.enter_context(stack.enter_context(replacing(file)).open("wb"))
                for file in files.values()
            ]
            train, test = (
                _Side(file, n, tokenizer, dtype)
                for file, n in zip(opened, wanted, strict=True)
            )
            for is_test, document in _sided(text, train, test):
                bar.update((test if is_test else train).write(document))
            _check_length(train, "train on", config, text)
            _check_length(test, "test on", config, text)
        with replacing(facts) as temporary:
            held = {
                "dtype": dtype.__name__,
                "ids": len(tokenizer),
                "train": train.facts(),
                "held_out": test.facts(),
            }
            temporary.write_text(json.dumps(held, indent=2))
    _check_tokens(facts, files, dtype, len(tokenizer))
    rows, held_out = (
        TokenRows(np.memmap(file, dtype=dtype, mode="r"), config.seq_len)
        for file in files.values()
    )
    return rows, held_out


@functools.lru_cache(maxsize=2)
def _order(number: int, n_rows: int, seed: int) -> Any:
    return np.random.default_rng([seed, number]).permutation(n_rows)


class _Side:
    """The file of one side of the split, until it has enough."""

    def __init__(self, file: Any, wanted: int, tokenizer: Any, dtype: Any) -> None:
        self.file, self.wanted, self.tokenizer, self.dtype = (
            file,
            wanted,
            tokenizer,
            dtype,
        )
        self.written = self.documents = 0
        self.digest = hashlib.sha256()

    @property
    def is_full(self) -> bool:
        return self.written >= self.wanted

    def write(self, document: str) -> int:
        """How many tokens of it were written."""
        if self.is_full:
            return 0
        # A text in which "</s>" is written out is still one text.
        ids = self.tokenizer(
            document, add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        ids = [*ids, self.tokenizer.eos_token_id][: self.wanted - self.written]
        if max(ids) >= len(self.tokenizer):
            raise InvalidArgument(
                f"the tokenizer gave token {max(ids)} and says it has {len(self.tokenizer)}; give another one"
            )
        written = np.asarray(ids, dtype=self.dtype).tobytes()
        self.file.write(written)
        self.digest.update(written)
        self.written, self.documents = self.written + len(ids), self.documents + 1
        return len(ids)

    def facts(self) -> dict[str, Any]:
        return {
            "tokens": self.written,
            "documents": self.documents,
            "sha256": self.digest.hexdigest(),
        }


def _sided(text: TextConfig, train: _Side, test: _Side) -> Iterator[tuple[bool, str]]:
    """Documents and whether they are to test on, until both sides have enough or there are no more."""
    if text.eval_text is None:
        for document in documents(text.text, column=text.column):
            yield is_held_out(document), document
            if train.is_full and test.is_full:
                return
    else:
        for side, source in ((train, text.text), (test, text.eval_text)):
            for document in documents(source, column=text.column):
                yield side is test, document
                if side.is_full:
                    break


def _check_tokens(facts: Path, files: dict[str, Path], dtype: Any, n_ids: int) -> None:
    """That the files are as they were written, whole and to the last token; reading them once is little beside training on them."""
    again = f"delete the tokens in {facts.parent} and give the same command again, which makes them anew"
    try:
        held = json.loads(facts.read_text(encoding="utf-8"))
        ids, wanted = (
            held["ids"],
            {
                name: (held[name]["tokens"] * dtype().itemsize, held[name]["sha256"])
                for name in files
            },
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{facts} does not say what was tokenized ({error!r}); {again}"
        ) from error
    if ids != n_ids:
        raise FormatError(
            f"the tokens in {facts.parent} are of a tokenizer of {ids!r} ids, and this one has {n_ids}; "
            "give that one, or another folder with --out"
        )
    for name, file in files.items():
        n_bytes, digest = wanted[name]
        if not file.exists():
            raise FormatError(f"{file} is missing; {again}")
        if file.stat().st_size != n_bytes:
            raise FormatError(
                f"{file} has {file.stat().st_size} bytes where {n_bytes} were written; {again}"
            )
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != digest:
                raise FormatError(f"{file} has other tokens than were written; {again}")


def _check_length(
    side: _Side, purpose: str, config: PretrainConfig, text: TextConfig
) -> None:
    if side.written <= config.seq_len:
        split = (
            "; one in ten documents of the text is held out to test on"
            if text.eval_text is None
            else ""
        )
        raise InvalidArgument(
            f"a sequence of seq_len={config.seq_len} needs {config.seq_len + 1} tokens, and there are {side.written} in {side.documents} "
            f"documents to {purpose}{split}; give more text, another text to test on (eval_text), or a smaller seq_len"
        )
