"""Documents have one of two sides, and texts that cannot be used are rejected."""

import json

import small_run
import tiny
import transformers

from sae_lens_ext.experiments.pretraining.config import PretrainConfig, TextConfig
from sae_lens_ext.experiments.pretraining.text import (
    describe_files,
    documents_by_side,
    load_tokenizer,
)
from sae_lens_ext.experiments.pretraining.tokens import prepare_tokens
from sae_lens_ext.text import is_held_out


def test_text_is_split_by_document_and_no_document_is_on_both_sides(tmp_path):
    source = small_run.write_texts(tmp_path / "texts")
    (source / "tag.txt").write_text("This </s> is one text.")
    documents = [file.read_text() for file in sorted(source.iterdir())]
    assert "This </s> is one text." in documents

    tokenizer = load_tokenizer("bytes")
    config = PretrainConfig(**{**small_run.SETTINGS, "steps": 1000})
    text = TextConfig(text=str(source))
    sides = prepare_tokens(tmp_path / "tokens", config, text, tokenizer, progress=False)
    for is_test, side in enumerate(sides):
        expected = [
            document for document in documents if is_held_out(document) == is_test
        ]
        decoded = tokenizer.decode(side.tokens).split("</s>")[:-1]
        assert "".join(decoded) == "".join(expected).replace("</s>", "")
        n_ends = int((side.tokens == tokenizer.eos_token_id).sum())
        assert n_ends == len(expected)

    facts = json.loads((tmp_path / "tokens" / "tokens.json").read_text())
    assert facts["train"]["documents"] + facts["held_out"]["documents"] == 61
    assert facts["held_out"]["tokens"] == len(sides[1].tokens)


def test_a_second_text_is_tested_on_alone(tmp_path):
    (tmp_path / "one.txt").write_text("All of this one document is to train on.")
    (tmp_path / "two.txt").write_text("And all of this is to test on.")
    text = TextConfig(
        text=str(tmp_path / "one.txt"), eval_text=str(tmp_path / "two.txt")
    )
    tokenizer = load_tokenizer("bytes")
    train, held_out = prepare_tokens(
        tmp_path / "tokens", small_run.CONFIG, text, tokenizer, progress=False
    )
    decoded = tokenizer.decode(train.tokens)
    assert decoded == "All of this one document is to train on.</s>"
    assert tokenizer.decode(held_out.tokens) == "And all of this is to test on.</s>"


def test_documents_end_when_both_sides_are_full(tmp_path):
    text = TextConfig(text=str(small_run.write_texts(tmp_path / "texts")))
    counts = {"train": 0, "held_out": 0}
    for side, _ in documents_by_side(text, lambda side: counts[side] >= 3):
        counts[side] += 1
    assert min(counts.values()) == 3
    assert sum(counts.values()) < 60


def test_a_change_of_files_is_noticed_by_number_and_size(tmp_path):
    source = small_run.write_texts(tmp_path / "texts", n=2)
    assert describe_files(None) is None
    assert describe_files(str(tmp_path / "nothing")) is None
    n_bytes = [len(file.read_bytes()) for file in sorted(source.iterdir())]
    assert describe_files(str(source)) == f"2 files of {sum(n_bytes)} bytes"
    assert describe_files(str(source / "000.txt")) == f"1 files of {n_bytes[0]} bytes"
    (source / ".hidden").write_text("of an editor")
    assert describe_files(str(source)) == f"2 files of {sum(n_bytes)} bytes"


def test_a_text_that_cannot_be_used_is_one_line(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    out = ("--out", tmp_path / "run")
    line = small_run.failure(capsys, *out, "--text", empty)
    assert "holds no .txt, .md, .jsonl, .json, .parquet file" in line

    text = ("--text", small_run.write_texts(tmp_path / "texts"))
    nothing = tmp_path / "nothing"
    line = small_run.failure(capsys, *out, *text, "--eval-text", nothing)
    assert "no file or folder" in line
    line = small_run.failure(capsys, *out, *text, "--eval-tokens", 15)
    assert "test on more" in line
    assert not (tmp_path / "run").exists()

    (empty / "short.txt").write_text("short")
    line = small_run.failure(capsys, *out, "--text", empty)
    assert (
        "a sequence of --seq-len=16 needs 17 tokens, and there are 6 in 1 documents to "
        "train on"
    ) in line
    (empty / "short.txt").write_text("one document, long enough to train on")
    line = small_run.failure(capsys, *out, "--text", empty)
    assert (
        "there are 0 in 0 documents to test on; one in ten documents of the text is "
        "held out to test on"
    ) in line

    # After each of these errors, the folder can still be used.
    assert small_run.command("--kernel", "based", *out, *text) == 0


def test_a_tokenizer_that_cannot_be_used_is_one_line(tmp_path, capsys):
    out = ("--out", tmp_path / "run")
    nothing = tmp_path / "nothing"
    line = small_run.failure(capsys, *out, "--tokenizer", nothing)
    assert "no tokenizer can be loaded from" in line

    endless = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer().backend_tokenizer, unk_token="<unk>"
    )
    endless.save_pretrained(tmp_path / "endless")
    line = small_run.failure(capsys, *out, "--tokenizer", tmp_path / "endless")
    assert "has no eos token to put between documents" in line
