"""The options of `sae-lens-ext demo` reach the walkthrough."""

from pathlib import Path

import pytest

from sae_lens_ext.cli.demo import SENTENCE, main
from sae_lens_ext.demo import walkthrough


@pytest.fixture
def calls(monkeypatch):
    calls = []

    def walk_through(out, *, echo, **options):
        calls.append((out, options))
        echo("shown")

    monkeypatch.setattr(walkthrough, "walk_through", walk_through)
    return calls


def test_defaults(calls, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    options = {"block": 9, "sentence": SENTENCE, "n_rows": 8, "progress": True}
    assert calls == [(Path("runs/demo"), options)]
    assert capsys.readouterr().out == "shown\n"


def test_every_option_arrives(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--out", "a b", "--sentence", "w1 w2", "--rows", "3", "--block", "5"]
    assert main([*arguments, "--no-progress"]) == 0
    options = {"block": 5, "sentence": "w1 w2", "n_rows": 3, "progress": False}
    assert calls == [(Path("a b"), options)]


def test_help_shows_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--out", "--block", "--rows", "--sentence", "--no-progress"):
        assert option in shown


def test_rejects_invalid_row_count(calls, capsys):
    assert main(["--rows", "0"]) == 2
    error = capsys.readouterr().err
    assert error == "sae-lens-ext: --rows must be a positive integer; got 0\n"
    assert not calls


@pytest.mark.parametrize("below", ["", "folder", "a/b"])
def test_rejects_a_folder_that_cannot_be_made_before_it_begins(
    calls, capsys, tmp_path, below
):
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "file" / below)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sae-lens-ext: {tmp_path / 'file' / below} ")
    assert line.endswith("with --out")
    assert not calls


def test_an_interruption_exits_with_130(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def walk_through(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(walkthrough, "walk_through", walk_through)
    assert main([]) == 130
    assert "interrupted; the same command goes on from" in capsys.readouterr().err
