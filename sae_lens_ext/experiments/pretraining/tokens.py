"""From documents to the rows of tokens that every step reads.

1. The documents of a side are tokenized, each followed by the end-of-text token, and
   written to one file until there are enough.
2. The file is cut into rows of ``seq_len`` + 1 tokens, of which neighbours share one,
   so that every token but the first is predicted once.
3. Every pass over the rows has an order of its own, which depends only on the seed and
   the number of the pass.

The rows of a step therefore follow from its number, and every model of a run,
interrupted or not, reads the same rows.
"""

import functools
import hashlib
import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.experiments.pretraining.config import PretrainConfig, TextConfig
from sae_lens_ext.experiments.pretraining.text import (
    Side,
    check_sources,
    documents_by_side,
)
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.text import Packer

_SIDES: tuple[Side, ...] = get_args(Side)
_PURPOSES: dict[Side, str] = {"train": "train on", "held_out": "test on"}
_FACTS = "tokens.json"


class TokenRows(NamedTuple):
    """A long text as rows of tokens."""

    tokens: Any
    """[token], an array, possibly on disk."""
    seq_len: int
    """Tokens that a row predicts; a row holds one more."""

    def __len__(self) -> int:
        """Number of rows; what is left over at the end of the text is not in any."""
        return max(0, (len(self.tokens) - 1) // self.seq_len)

    def at(self, rows: Iterable[int]) -> Int[Tensor, "row pos"]:
        """Rows by number, ``seq_len`` + 1 tokens each."""
        arrays = []
        for row in rows:
            start = row * self.seq_len
            arrays.append(self.tokens[start : start + self.seq_len + 1])
        return torch.from_numpy(np.stack(arrays).astype(np.int64))


def rows_of_step(
    step: int,
    n_rows: int,
    batch_size: int,
    seed: int,
) -> list[int]:
    """Numbers of the rows that a step reads.

    Steps read the next ``batch_size`` rows of endless passes, each of them over all
    rows in an order of its own.

    >>> [rows_of_step(step, n_rows=4, batch_size=2, seed=0) for step in range(4)]
    [[2, 0], [1, 3], [3, 0], [2, 1]]
    """
    start = step * batch_size
    end = start + batch_size
    first_pass = start // n_rows
    last_pass = (end - 1) // n_rows

    rows: list[int] = []
    for number in range(first_pass, last_pass + 1):
        order = _order_of_pass(number, n_rows, seed)
        offset = number * n_rows
        rows += order[max(0, start - offset) : end - offset].tolist()
    return rows


def check_text(folder: Path, config: PretrainConfig, text: TextConfig) -> None:
    """Find errors that ``prepare_tokens`` would begin with, before anything is written.

    No more than one document of each text is read.

    Raises:
        FormatError: a text cannot be found or read.
        InvalidArgument: fewer tokens to test on than one sequence has.
    """
    if text.eval_tokens < config.seq_len:
        raise InvalidArgument(
            f"eval_tokens={text.eval_tokens} is less than one sequence of "
            f"seq_len={config.seq_len}; test on more"
        )

    # Once the tokens are written, the text itself is not needed any more.
    if not (folder / _FACTS).exists():
        check_sources(text)


def prepare_tokens(
    folder: Path,
    config: PretrainConfig,
    text: TextConfig,
    tokenizer: Any,
    *,
    progress: bool = True,
) -> tuple[TokenRows, TokenRows]:
    """Rows to train on and rows to test on.

    The first call writes the tokens to ``folder``; later calls with the same settings
    read them from there.

    Raises:
        FormatError: no text, or files in ``folder`` that differ from what was written.
        InvalidArgument: too little text, or a tokenizer that returns ids outside of its
            own vocabulary.
    """
    facts_path = folder / _FACTS
    paths: dict[Side, Path] = {side: folder / f"{side}.bin" for side in _SIDES}
    # Two bytes hold every id of most tokenizers.
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32

    # Written last, so that the other files are whole wherever this one is.
    if not facts_path.exists():
        facts = _write_tokens(paths, config, text, tokenizer, dtype, progress)
        with replacing(facts_path) as temporary:
            temporary.write_text(json.dumps(facts, indent=2))

    _check_tokens(facts_path, paths, dtype, len(tokenizer))
    train, held_out = (
        TokenRows(np.memmap(paths[side], dtype=dtype, mode="r"), config.seq_len)
        for side in _SIDES
    )
    return train, held_out


@functools.lru_cache(maxsize=2)
def _order_of_pass(number: int, n_rows: int, seed: int) -> Any:
    return np.random.default_rng([seed, number]).permutation(n_rows)


class _TokenWriter:
    """Writes the tokens of one side to a file until there are enough."""

    def __init__(
        self,
        file: BinaryIO,
        limit: int,
        tokenizer: Any,
        seq_len: int,
        dtype: Any,
    ) -> None:
        self.file = file
        self.limit = limit
        self.tokenizer = tokenizer
        self.dtype = dtype
        # A text in which "</s>" is spelled out is still one text, so it is split there.
        # Rows are cut when they are read, so only the packer's tokens are used.
        self.packer = Packer(
            tokenizer,
            seq_len + 1,
            begin_with_bos=False,
            join_documents=True,
            split_special_tokens=True,
        )
        self.n_tokens = 0
        self.n_documents = 0
        self.digest = hashlib.sha256()

    @property
    def is_full(self) -> bool:
        return self.n_tokens >= self.limit

    def write(self, document: str) -> int:
        """Write a document, as far as there is room; returns the tokens written."""
        if self.is_full:
            return 0

        ids = self.packer.ids(document)[: self.limit - self.n_tokens]
        if max(ids) >= len(self.tokenizer):
            raise InvalidArgument(
                f"the tokenizer returned token {max(ids)}, but reports a vocabulary of "
                f"{len(self.tokenizer)}; give another one"
            )

        data = np.asarray(ids, dtype=self.dtype).tobytes()
        self.file.write(data)
        self.digest.update(data)
        self.n_tokens += len(ids)
        self.n_documents += 1
        return len(ids)

    def facts(self) -> dict[str, Any]:
        """What was written, for ``_check_tokens`` to compare the file with."""
        return {
            "tokens": self.n_tokens,
            "documents": self.n_documents,
            "sha256": self.digest.hexdigest(),
        }


def _write_tokens(
    paths: dict[Side, Path],
    config: PretrainConfig,
    text: TextConfig,
    tokenizer: Any,
    dtype: Any,
    progress: bool,
) -> dict[str, Any]:
    """Write the files of both sides, or neither; returns what was written."""
    # Never more than the run reads.
    limits: dict[Side, int] = {
        "train": config.tokens + 1,
        "held_out": text.eval_tokens + 1,
    }
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(
                total=sum(limits.values()),
                desc="tokens",
                unit="token",
                unit_scale=True,
                disable=not progress,
            )
        )
        writers: dict[Side, _TokenWriter] = {}
        for side, path in paths.items():
            temporary = stack.enter_context(replacing(path))
            file = stack.enter_context(temporary.open("wb"))
            writers[side] = _TokenWriter(
                file,
                limits[side],
                tokenizer,
                config.seq_len,
                dtype,
            )

        def is_full(side: Side) -> bool:
            return writers[side].is_full

        for side, document in documents_by_side(text, is_full):
            bar.update(writers[side].write(document))

        # Inside of the block, so that files that are too short are not kept.
        for side, writer in writers.items():
            _check_length(writer, _PURPOSES[side], config, text)

    return {
        "dtype": dtype.__name__,
        "ids": len(tokenizer),
        **{side: writer.facts() for side, writer in writers.items()},
    }


def _check_length(
    writer: _TokenWriter,
    purpose: str,
    config: PretrainConfig,
    text: TextConfig,
) -> None:
    if writer.n_tokens > config.seq_len:
        return
    split = ""
    if text.eval_text is None:
        split = "; one in ten documents of the text is held out to test on"
    raise InvalidArgument(
        f"a sequence of seq_len={config.seq_len} needs {config.seq_len + 1} tokens, "
        f"and there are {writer.n_tokens} in {writer.n_documents} documents to "
        f"{purpose}{split}; give more text, another text to test on (eval_text), or a "
        "smaller seq_len"
    )


def _check_tokens(
    facts_path: Path,
    paths: dict[Side, Path],
    dtype: Any,
    n_ids: int,
) -> None:
    """Compare the files with what was written, to the last token.

    Reading them once takes little time beside training on them.
    """
    folder = facts_path.parent
    advice = (
        f"delete the tokens in {folder} and give the same command again, which makes "
        "them anew"
    )
    try:
        facts = json.loads(facts_path.read_text(encoding="utf-8"))
        written_ids = facts["ids"]
        sizes = {side: facts[side]["tokens"] * dtype().itemsize for side in paths}
        digests = {side: facts[side]["sha256"] for side in paths}
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{facts_path} does not say what was tokenized ({error!r}); {advice}"
        ) from error

    if written_ids != n_ids:
        raise FormatError(
            f"the tokens in {folder} are of a tokenizer of {written_ids!r} ids, and "
            f"this one has {n_ids}; give that one, or another folder with --out"
        )

    for side, path in paths.items():
        if not path.exists():
            raise FormatError(f"{path} is missing; {advice}")
        n_bytes = path.stat().st_size
        if n_bytes != sizes[side]:
            raise FormatError(
                f"{path} has {n_bytes} bytes where {sizes[side]} were written; {advice}"
            )
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != digests[side]:
            raise FormatError(f"{path} holds other tokens than were written; {advice}")
