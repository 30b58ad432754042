"""Every pass reads every row once, and tokens are read back as they were written."""

import re
import shutil

import numpy as np
import pytest
import small_run

import sae_lens_ext as sle
from sae_lens_ext.experiments.pretraining.config import TextConfig
from sae_lens_ext.experiments.pretraining.text import load_tokenizer
from sae_lens_ext.experiments.pretraining.tokens import (
    TokenRows,
    prepare_tokens,
    rows_of_step,
)


@pytest.mark.parametrize(("n_rows", "batch_size"), [(7, 3), (3, 7), (1, 4), (6, 3)])
def test_every_pass_reads_every_row_once_in_an_order_of_its_own(n_rows, batch_size):
    steps = [
        rows_of_step(step, n_rows, batch_size, seed=5) for step in range(4 * n_rows)
    ]
    assert {len(step) for step in steps} == {batch_size}

    rows = [row for step in steps for row in step]
    passes = [rows[start : start + n_rows] for start in range(0, len(rows), n_rows)]
    assert all(sorted(order) == list(range(n_rows)) for order in passes)
    assert len({tuple(order) for order in passes}) >= min(2, n_rows)


def test_the_order_of_rows_follows_from_the_seed():
    def order(seed):
        return [rows_of_step(step, 7, 3, seed) for step in range(9)]

    assert order(5) == order(5)
    assert order(5) != order(6)


def test_every_token_but_the_first_is_predicted_once():
    rows = TokenRows(np.arange(23), 5)
    assert len(rows) == 4
    assert rows.at([1, 2]).tolist() == [[5, 6, 7, 8, 9, 10], [10, 11, 12, 13, 14, 15]]
    assert rows.at(range(4))[:, 1:].flatten().tolist() == list(range(1, 21))
    assert len(TokenRows(np.arange(5), 5)) == 0


def test_no_more_text_is_read_than_is_needed(tmp_path):
    source = small_run.write_texts(tmp_path / "texts")
    text = TextConfig(text=str(source), eval_tokens=20)
    tokenizer = load_tokenizer("bytes")
    train, held_out = prepare_tokens(
        tmp_path / "tokens", small_run.CONFIG, text, tokenizer, progress=False
    )
    assert len(train.tokens) == small_run.CONFIG.tokens + 1
    assert len(held_out.tokens) == 21


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "train.bin",
            lambda data: data[:300],
            "train.bin has 300 bytes where 770 were written",
        ),
        (
            "train.bin",
            lambda data: data[:50],
            "train.bin has 50 bytes where 770 were written",
        ),
        (
            "train.bin",
            lambda data: data[:-1],
            "train.bin has 769 bytes where 770 were written",
        ),
        (
            "held_out.bin",
            lambda _: b"",
            "held_out.bin has 0 bytes where 42 were written",
        ),
        (
            "held_out.bin",
            lambda data: b"\xff" * len(data),
            "held_out.bin holds other tokens than were written",
        ),
        ("train.bin", lambda _: None, "train.bin is missing"),
        (
            "tokens.json",
            lambda _: b"[1]",
            "tokens.json does not say what was tokenized",
        ),
        ("tokens.json", lambda _: b"{", "tokens.json does not say what was tokenized"),
        (
            "tokens.json",
            lambda data: data.replace(b'"tokens"', b'"t"'),
            "does not say what was tokenized (KeyError('tokens'))",
        ),
    ],
)
def test_rejects_damaged_tokens_until_they_are_deleted(tmp_path, name, damage, message):
    source = small_run.write_texts(tmp_path / "texts")
    text = TextConfig(text=str(source), eval_tokens=20)
    folder = tmp_path / "tokens"

    def tokens():
        sides = prepare_tokens(
            folder, small_run.CONFIG, text, load_tokenizer("bytes"), progress=False
        )
        return [side.tokens.tolist() for side in sides]

    expected = tokens()
    file = folder / name
    damaged = damage(file.read_bytes())
    file.unlink()
    if damaged is not None:
        file.write_bytes(damaged)
    with pytest.raises(
        sle.FormatError,
        match=f"{re.escape(message)}.*; delete the tokens in {folder} and give the "
        "same command again",
    ):
        tokens()

    shutil.rmtree(folder)
    assert tokens() == expected


def test_rejects_a_tokenizer_with_ids_outside_of_its_vocabulary(tmp_path, monkeypatch):
    tokenizer = load_tokenizer("bytes")
    monkeypatch.setattr(type(tokenizer), "__len__", lambda _: 100)
    text = TextConfig(text=str(small_run.write_texts(tmp_path / "texts")))
    with pytest.raises(
        sle.InvalidArgument,
        match="the tokenizer returned token 198, but reports a vocabulary of 100",
    ):
        prepare_tokens(
            tmp_path / "tokens", small_run.CONFIG, text, tokenizer, progress=False
        )


def test_rejects_tokens_of_a_tokenizer_that_has_changed(tmp_path, monkeypatch):
    tokenizer = load_tokenizer("bytes")
    text = TextConfig(text=str(small_run.write_texts(tmp_path / "texts")))
    arguments = (tmp_path / "tokens", small_run.CONFIG, text, tokenizer)
    prepare_tokens(*arguments, progress=False)
    monkeypatch.setattr(type(tokenizer), "__len__", lambda _: 100)
    with pytest.raises(
        sle.FormatError,
        match="are of a tokenizer of 259 ids, and this one has 100; give that one, or "
        "another folder",
    ):
        prepare_tokens(*arguments, progress=False)
