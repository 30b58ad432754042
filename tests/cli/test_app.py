import re
import subprocess
import sys

import pandas
import pytest
import tiny
import torch
from typer.testing import CliRunner

import sae_lens_ext as sle
from sae_lens_ext.cli import main as run_main
from sae_lens_ext.cli.app import app
from sae_lens_ext.demo import walkthrough as demo


def _command(*arguments, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-m", "sae_lens_ext", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_help_and_version():
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert "demo" in shown.output
    shown = CliRunner().invoke(app, ["demo", "--help"])
    assert all(
        option in re.sub(r"\x1b\[[0-9;]*m", "", shown.output)
        for option in ("--out", "--retrain", "--rows", "--sentence")
    )
    shown = re.sub(
        r"\x1b\[[0-9;]*m", "", CliRunner().invoke(app, ["mqar", "--help"]).output
    )
    assert all(
        option in shown
        for option in (
            "--kernel",
            "--seq-len",
            "--init-std",
            "--seeds",
            "--jobs",
            "--save",
            "--out",
        )
    )
    assert CliRunner().invoke(app, ["--version"]).output.strip() == sle.__version__


def test_a_failure_is_one_line_and_exit_code_2(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    done = _command("demo", "--out", str(file))
    assert done.returncode == 2
    assert (
        done.stderr
        == f"sae-lens-ext: {file} is a file; give a folder to write to with --out\n"
    )
    assert done.stdout == ""


def test_a_folder_that_cannot_be_made_is_one_line_too(tmp_path):
    (tmp_path / "file").write_text("")
    done = _command("demo", SAE_LENS_EXT_CACHE=str(tmp_path / "file" / "cache"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


# Small enough for seconds, in everything.
SMALL = "--seq-len 8 --pairs 2 --vocab-size 10 --d-model 8 --heads 2 --feature-dim 2 --steps 4 --batch-size 4 --train-examples 0"
SMALL = [
    *SMALL.split(),
    "--test-examples",
    "6",
    "--evaluations",
    "2",
    "--seeds",
    "2",
    "--no-progress",
]


def test_mqar_trains_tabulates_draws_and_keeps_what_is_done(tmp_path):
    out = tmp_path / "new" / "folder"
    done = CliRunner().invoke(
        app,
        ["mqar", *SMALL, "--out", str(out), "--save", "--jobs", "2"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    heading, columns, based, rebased, difference, *rest = done.output.splitlines()
    assert (
        heading
        == "recall of 2 pairs in 8 tokens, d_model 8; the best learning rate of each kernel"
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
    assert sorted(path.name for path in out.iterdir()) == [
        "models",
        "mqar.csv",
        "mqar.png",
    ]
    assert (out / "mqar.png").read_bytes().startswith(b"\x89PNG")
    assert len(pandas.read_csv(out / "mqar.csv")) == 4
    assert rest[1].rpartition(" ")[2] in {
        path.name for path in (out / "models").iterdir()
    }
    written = (out / "mqar.csv").read_bytes()
    again = CliRunner().invoke(
        app, ["mqar", *SMALL, "--out", str(out), "--save"], catch_exceptions=False
    )
    assert again.output == done.output
    assert (out / "mqar.csv").read_bytes() == written


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--pairs", "3"],
            "seq_len must be even and at least 4 for each of the pairs; got seq_len=8, pairs=3",
        ),
        (
            ["--kernel", "softmax"],
            "kernel must be one of based, rebased, square, .*; got 'softmax'",
        ),
        (["--lr", "-1"], "lr must be a number above 0; got -1.0"),
        (
            ["--train-examples", "3"],
            "train_examples=3 are fewer than one batch of batch_size=4",
        ),
        (["--device", "nowhere"], "device 'nowhere' cannot be used here"),
    ],
)
def test_mqar_refuses_what_cannot_be_trained_before_it_begins(tmp_path, options, said):
    with pytest.raises(sle.InvalidArgument, match=said):
        CliRunner().invoke(
            app,
            ["mqar", *SMALL, "--out", str(tmp_path / "out"), *options],
            catch_exceptions=False,
        )
    assert not (tmp_path / "out").exists()


def test_mqar_says_what_diverged(tmp_path):
    options = [
        "--kernel",
        "rebased",
        "--lr",
        "1e38",
        "--seeds",
        "1",
        "--out",
        str(tmp_path),
    ]
    done = CliRunner().invoke(
        app, ["mqar", *SMALL, *options, "--no-progress"], catch_exceptions=False
    )
    assert (
        "rebased with lr 1e+38 and seed 42 diverged: what it answers at the end counts as wrong"
        in done.output
    )


def test_a_failure_of_mqar_is_one_line_too(tmp_path):
    (tmp_path / "file").write_text("")
    done = _command("mqar", "--out", str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"sae-lens-ext: {tmp_path / 'file'} is a file; give a folder to write to with --out\n"
    )


def test_an_option_that_does_not_exist_is_refused():
    done = _command("demo", "--k", "3")
    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_a_missing_package_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as ended:
        run_main()
    assert ended.value.code == 2
    assert (
        capsys.readouterr().err
        == "sae-lens-ext: The command line needs typer, which is not installed; run: pip install 'sae-lens-ext[demo]'\n"
    )


@pytest.fixture
def small_demo(gemma2, monkeypatch):
    """The demo's own code on a tiny random model: everything but the model and the training is the real thing."""
    sae = tiny.sae(exclude_special_tokens=True, model_name="tiny")
    monkeypatch.setattr(demo, "load_bundled", lambda **_: gemma2)
    monkeypatch.setattr(demo, "demo_sae", lambda model, **_: sae)
    monkeypatch.setattr(
        demo,
        "held_out_tokens",
        lambda tokenizer, n_rows: tiny.tokens(rows=n_rows, length=12),
    )
    return sae


def test_the_demo_prints_the_table_and_writes_three_files(small_demo, tmp_path):
    out = tmp_path / "new" / "folder"
    done = CliRunner().invoke(
        app,
        [
            "demo",
            "--out",
            str(out),
            "--sentence",
            "w1 w2 w3 <script>alert(1)</script>",
            "--rows",
            "3",
            "--no-progress",
        ],
    )
    assert done.exit_code == 0, done.output
    for words in (
        "bare model",
        "mean-ablated",
        "zero-ablated",
        "strongest features on",
    ):
        assert words in done.output
    assert sorted(path.name for path in out.iterdir()) == [
        "frontier.png",
        "report.html",
        "sweep.csv",
    ]
    sweep = pandas.read_csv(out / "sweep.csv")
    assert list(sweep.columns) == [
        "k",
        "l0",
        "fvu",
        "ce",
        "ce_recovered",
        "ce_recovered_zero",
        "kl",
    ]
    assert sweep["k"].tolist() == [1, 2, 4, 8]
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_is_self_contained_and_tokens_are_only_ever_text(
    small_demo, tmp_path, gemma2, monkeypatch
):
    monkeypatch.setattr(
        gemma2,
        "to_str_tokens",
        lambda text: ["<bos>", "</script><script>alert(1)</script>", "w2"],
    )
    CliRunner().invoke(
        app,
        [
            "demo",
            "--out",
            str(tmp_path),
            "--sentence",
            "w1 w2",
            "--rows",
            "1",
            "--no-progress",
        ],
        catch_exceptions=False,
    )
    page = (tmp_path / "report.html").read_text()
    assert not re.search(
        r"""(src|href)\s*=|https?://(?!www\.w3\.org)|@import|url\(""", page
    )
    assert page.count("<script") == page.count("</script>") == 2
    assert "innerHTML" not in page


def test_the_strongest_features_are_those_of_the_code():
    from sae_lens_ext.viz import strongest_features

    code = sle.SparseCode(
        torch.tensor([[3.0, 1.0], [2.0, 0.0]]), torch.tensor([[4, 0], [0, 5]]), d_sae=6
    )
    first, second = strongest_features(code, n=5)
    assert (first.feature, first.activations) == (4, (3.0, 0.0))
    assert (second.feature, second.activations) == (0, (1.0, 2.0))
    assert second.fires_on(["a", "b"]) == [("b", 2.0), ("a", 1.0)]
    with pytest.raises(
        sle.ShapeMismatch, match=r"give the code of one text, \[pos, k\]"
    ):
        strongest_features(
            sle.SparseCode(
                torch.zeros(1, 2, 3), torch.zeros(1, 2, 3, dtype=torch.int64), 4
            )
        )


def test_an_empty_sentence_is_refused(small_demo):
    with pytest.raises(sle.InvalidArgument, match="the sentence is empty"):
        CliRunner().invoke(app, ["demo", "--sentence", "  "], catch_exceptions=False)
