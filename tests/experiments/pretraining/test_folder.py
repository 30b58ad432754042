"""A folder belongs to one run: other settings, texts and contents are rejected."""

import json
import shutil

import pytest
import small_run

import sae_lens_ext as sle
from sae_lens_ext.experiments.pretraining.compare import compare_kernels
from sae_lens_ext.experiments.pretraining.config import TextConfig

RESULT = {
    "kernel": "based",
    "layers": 2,
    "intermediate_size": 64,
    "parameters": 9000,
    "size": 0.99,
    "recall": "token",
    "perplexity": 20.0,
    "perplexity_recall": 9.0,
    "perplexity_other": None,
    "recall_share": 1.0,
    "test_tokens": 320,
    "train_tokens": 384,
    "seconds": 2.0,
    "tokens_per_second": 192.0,
}
BY_NGRAM = {**RESULT, "recall": "ngram"}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([1], "1 is not a result"),
        ([{"kernel": "based"}], "{'kernel': 'based'} is not a result"),
        (5, "'int' object is not iterable"),
        ([RESULT], "not every kernel has one result per definition of recall"),
        (
            [{**RESULT, "recall": "word"}, RESULT],
            "not every kernel has one result per definition of recall",
        ),
        ([RESULT, {**BY_NGRAM, "perplexity": "low"}], "perplexity is 'low'"),
        ([RESULT, {**BY_NGRAM, "perplexity": None}], "perplexity is None"),
    ],
)
def test_invalid_results_are_one_line(tmp_path, capsys, results, message):
    content = json.dumps({"settings": {}, "results": results})
    (tmp_path / "results.json").write_text(content)
    line = small_run.failure(capsys, "--out", tmp_path)
    assert "results.json is not a list of results" in line
    assert message in line
    assert "give another folder with --out, or delete this one" in line


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    message = (
        "is not empty and holds no run of this command; give another folder with --out"
    )
    assert message in small_run.failure(capsys, "--out", tmp_path / "file")
    assert message in small_run.failure(capsys, "--out", tmp_path)
    line = small_run.failure(capsys, "--out", tmp_path / "file" / "run")
    assert "cannot be written to" in line

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text("[1]")
    line = small_run.failure(capsys, "--out", tmp_path / "other")
    assert "results.json is not a list of results" in line

    (tmp_path / "third" / "results.json").mkdir(parents=True)
    with pytest.raises(
        sle.InvalidArgument,
        match="third cannot be read .*; give another folder with --out",
    ):
        compare_kernels(
            ["based"],
            tmp_path / "third",
            small_run.CONFIG,
            TextConfig(),
            progress=False,
        )


def test_a_run_with_other_settings_is_not_mixed_with_this_one(tmp_path, capsys):
    source = small_run.write_texts(tmp_path / "texts")
    options = ("--text", source, "--out", tmp_path / "run")
    assert small_run.command("--kernel", "based", *options) == 0
    line = small_run.failure(capsys, *options, "--steps", 9, "--seed", 1)
    assert (
        "holds a run with other settings: --seed is 0 there and 1 here; --steps is 8 "
        "there and 9 here. Give another folder"
    ) in line


@pytest.mark.parametrize(
    "remaining", ["results.json", "based", "based.checkpoint.safetensors", "tokens"]
)
def test_rejects_other_settings_while_anything_of_the_run_is_left(
    tmp_path, capsys, remaining
):
    out = tmp_path / "run"
    source = small_run.write_texts(tmp_path / "texts")
    options = ("--kernel", "based", "--text", source, "--out", out)
    assert small_run.command(*options) == 0

    content = json.loads((out / "results.json").read_text())
    if remaining != "results.json":
        content["results"] = []
        (out / "results.json").write_text(json.dumps(content))
    (out / "based.checkpoint.safetensors").write_bytes(b"")
    for path in out.iterdir():
        if path.name in (remaining, "results.json"):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    line = small_run.failure(capsys, *options, "--steps", 14, "--lr", 0.1)
    assert (
        "holds a run with other settings: --lr is 0.01 there and 0.1 here; --steps is "
        "8 there and 14 here"
    ) in line
    assert json.loads((out / "results.json").read_text()) == content


def test_rejects_a_text_that_has_changed_and_does_without_one_that_is_gone(
    tmp_path, capsys
):
    source = small_run.write_texts(tmp_path / "texts")
    out = tmp_path / "run"
    options = ("--kernel", "based", "--text", source, "--out", out)
    assert small_run.command(*options) == 0

    first = source / "000.txt"
    original = first.read_text()
    n_bytes = sum(file.stat().st_size for file in source.iterdir())
    there = f"text_files is '60 files of {n_bytes} bytes' there and "
    first.write_text("Document 0 is about something else by now, and at greater length")
    n_bytes_now = sum(file.stat().st_size for file in source.iterdir())
    line = small_run.failure(capsys, *options)
    assert f"{there}'60 files of {n_bytes_now} bytes' here. Give another folder" in line
    # Nor is a text that was tokenized anew mixed with the results of the former.
    shutil.rmtree(out / "tokens")
    assert there in small_run.failure(capsys, *options)

    (source / ".hidden").write_text("of an editor, say")
    first.write_text(original)
    assert small_run.command(*options) == 0
    source.rename(tmp_path / "elsewhere")
    assert small_run.command(*options, "--kernel", "attention") == 0

    # What the text was is still known.
    (tmp_path / "elsewhere").rename(source)
    (source / "more.txt").write_text("more")
    line = small_run.failure(capsys, *options)
    assert f"{there}'61 files of {n_bytes + 4} bytes' here" in line
