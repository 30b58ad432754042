"""`sae-lens-ext mqar` trains, tabulates, draws, and goes on where it stopped."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas
import pytest

from sae_lens_ext.cli import mqar
from sae_lens_ext.cli.app import app
from sae_lens_ext.experiments.recall import MQAR, Recipe, workers

# Small enough for seconds, in everything.
TASK = "--seq-len 8 --pairs 2 --vocab-size 10"
MODEL = "--d-model 8 --heads 2 --feature-dim 2 --steps 4 --batch-size 4"
DATA = "--train-examples 0 --test-examples 6 --evaluations 2 --seeds 2 --no-progress"
SMALL = f"{TASK} {MODEL} {DATA}".split()


@pytest.fixture
def calls(monkeypatch):
    """What the command would train, instead of training it."""
    calls = []

    def compare_recall(task, base, kernels, lrs, seeds, out, **options):
        calls.append((task, base, kernels, lrs, list(seeds), out, options))

    monkeypatch.setattr(mqar, "compare_recall", compare_recall)
    return calls


def test_trains_tabulates_draws_and_keeps_results(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    command = ["mqar", *SMALL, "--out", str(out), "--save"]
    assert app([*command, "--jobs", "2"]) == 0

    shown = capsys.readouterr().out
    heading, columns, based, rebased, difference, *rest = shown.splitlines()
    assert (
        heading
        == "recall of 2 pairs in 8 tokens, d_model 8; the best learning rate of each "
        "kernel"
    )
    assert columns.split() == [
        "kernel",
        "lr",
        "runs",
        "accuracy",
        "std",
        "se",
        "solved",
        "steps_to_solve",
        "seconds",
    ]
    assert based.split()[:3] == ["based", "0.003", "2"]
    assert rebased.split()[:3] == ["rebased", "0.003", "2"]
    assert difference.startswith("rebased less based: ")
    assert rest[0] == f"wrote {out / 'mqar.csv'} and {out / 'mqar.png'}"
    assert rest[1].startswith(f"4 models are in {out / 'models'}; the best is ")

    files = sorted(path.name for path in out.iterdir())
    assert files == ["models", "mqar.csv", "mqar.png"]
    assert (out / "mqar.png").read_bytes().startswith(b"\x89PNG")
    assert len(pandas.read_csv(out / "mqar.csv")) == 4
    models = {path.name for path in (out / "models").iterdir()}
    assert rest[1].rpartition(" ")[2] in models

    written = (out / "mqar.csv").read_bytes()
    assert app(command) == 0
    assert capsys.readouterr().out == shown
    assert (out / "mqar.csv").read_bytes() == written


def test_names_the_models_that_diverged(tmp_path, capsys, monkeypatch):
    # The test above starts processes.
    monkeypatch.setattr(workers, "process_pool", ThreadPoolExecutor)
    options = ["--kernel", "rebased", "--lr", "1e38", "--seeds", "1"]
    assert app(["mqar", *SMALL, *options, "--out", str(tmp_path)]) == 0
    assert (
        "rebased with lr 1e+38 and seed 42 diverged: what it answers at the end counts "
        "as wrong" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--pairs", "3"],
            "--seq-len must be even and at least 4 .*pairs; got --seq-len=8, --pairs=3",
        ),
        (["--kernel", "softmax"], "--kernel must be one of based, .*; got 'softmax'"),
        (["--lr", "-1"], "--lr must be a .*number.*; got -1.0"),
        (["--train-examples", "3"], "--train-examples=3 .*--batch-size=4"),
        (["--device", "nowhere"], "--device 'nowhere' cannot be used here"),
        (["--jobs", "0"], "--jobs must be .*; got 0"),
        (["--seeds", "0"], "--seeds must be a positive integer; got 0"),
        (["--first-seed", "-1"], "--first-seed must be a non-negative integer; got -1"),
        (["--kernel"], "--kernel needs at least one value"),
    ],
)
def test_rejects_what_cannot_be_trained_before_it_begins(
    tmp_path, capsys, options, message
):
    command = ["mqar", *SMALL, "--out", str(tmp_path / "out"), *options]
    assert app(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"sae-lens-ext: {message}", line)
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert app(["mqar", "--out", str(file)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (
        shown.err
        == f"sae-lens-ext: {file} is a file; give a folder to write to with --out\n"
    )


def test_an_interruption_says_where_the_command_goes_on(tmp_path, monkeypatch, capsys):
    def train_grid(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mqar, "train_grid", train_grid)
    assert app(["mqar", *SMALL, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "sae-lens-ext: interrupted\n"

    (tmp_path / "mqar.csv").write_text("")
    assert app(["mqar", *SMALL, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == (
        "sae-lens-ext: interrupted; the same command goes on from "
        f"{tmp_path / 'mqar.csv'}\n"
    )


def test_defaults_are_those_of_the_task_and_the_recipe(calls):
    assert app(["mqar"]) == 0
    ((task, base, kernels, lrs, seeds, out, options),) = calls
    assert task == MQAR()
    assert base == Recipe()
    assert kernels == ("based", "rebased")
    assert lrs == (3e-3,)
    assert seeds == [42, 43, 44, 45, 46]
    assert out == Path("runs/mqar")
    assert options == {"save": False, "jobs": 1, "device": "cpu", "progress": True}


def test_every_option_arrives(calls):
    options = (
        "--seq-len 64 --pairs 4 --vocab-size 99 --power-a 1 --random-non-queries "
        "--d-model 32 --heads 4 --feature-dim 8 --no-learned-positions --init-std 0.1 "
        "--steps 10 --batch-size 5 --weight-decay 0 --fewest-pairs 2 "
        "--train-seq-len 48 --train-examples 0 --test-examples 7 --evaluations 3 "
        "--kernel attention square --kernel based --lr 1e-3 --lr 1e-2 1e-1 "
        "--seeds 2 --first-seed 7 --jobs 3 --device meta --save --out x --no-progress"
    )
    assert app(["mqar", *options.split()]) == 0
    ((task, base, kernels, lrs, seeds, out, rest),) = calls
    assert task == MQAR(64, 4, 99, 1.0, random_non_queries=True)
    assert base == Recipe(
        d_model=32,
        heads=4,
        feature_dim=8,
        learned_positions=False,
        init_std=0.1,
        steps=10,
        batch_size=5,
        weight_decay=0.0,
        fewest_pairs=2,
        train_seq_len=48,
        train_examples=None,
        test_examples=7,
        evaluations=3,
    )
    assert kernels == ("attention", "square", "based")
    assert lrs == (1e-3, 1e-2, 1e-1)
    assert seeds == [7, 8]
    assert out == Path("x")
    assert rest == {"save": True, "jobs": 3, "device": "meta", "progress": False}


def test_none_is_accepted_where_it_is_the_default(calls):
    assert app(["mqar", "--fewest-pairs", "None", "--train-seq-len=None"]) == 0
    assert app(["mqar", "--fewest-pairs", "2", "--fewest-pairs", "None"]) == 0
    assert [base for _, base, *_ in calls] == [Recipe(), Recipe()]


def test_messages_name_options(tmp_path, capsys):
    command = ["mqar", *SMALL, "--out", str(tmp_path / "out")]
    assert app([*command, "--fewest-pairs", "3"]) == 2
    assert capsys.readouterr().err == (
        "sae-lens-ext: --fewest-pairs must not exceed the task's --pairs=2; got 3\n"
    )
    assert app([*command, "--train-seq-len", "16"]) == 2
    assert "; give --no-learned-positions\n" in capsys.readouterr().err


def test_help_shows_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        app(["mqar", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in (
        "--kernel",
        "--seq-len",
        "--init-std",
        "--seeds",
        "--jobs",
        "--save",
        "--out",
    ):
        assert option in shown
