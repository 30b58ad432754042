"""One command line: it picks the command, and ends in one line and an exit code."""

import os
import subprocess
import sys

import pytest

import sae_lens_ext as sle
from sae_lens_ext.cli import main
from sae_lens_ext.cli.app import app
from sae_lens_ext.cli.parsing import COMMANDS


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "sae_lens_ext", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        check=False,
    )


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        app(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"• {command}" in shown
    assert "--version" in shown


def test_shows_help_without_a_command(capsys):
    with pytest.raises(SystemExit):
        app(["--help"])
    shown_on_request = capsys.readouterr().out
    assert app([]) == 2
    assert capsys.readouterr().out == shown_on_request


def test_prints_the_version(capsys):
    assert app(["--version"]) == 0
    assert capsys.readouterr().out.strip() == sle.__version__


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_in_its_help(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        app([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: sae-lens-ext {command} ")
    assert COMMANDS[command] in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_rejects_an_unknown_command(capsys):
    with pytest.raises(SystemExit) as ended:
        app(["demonstrate"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "demonstrate" in error
    assert ", ".join(COMMANDS) in error


def test_rejects_an_unknown_option():
    done = run_command("demo", "--k", "3")
    assert done.returncode == 2
    assert "Unrecognized options: --k" in done.stderr
    assert done.stdout == ""


def test_a_failure_is_one_line_and_exit_code_2(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    done = run_command("demo", "--out", str(file))
    assert done.returncode == 2
    assert (
        done.stderr
        == f"sae-lens-ext: {file} is a file; give a folder to write to with --out\n"
    )
    assert done.stdout == ""


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAE_LENS_EXT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(SystemExit) as ended:
        main(["demo"])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_missing_package_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "sae-lens-ext: The command line needs tyro, which is not installed; "
        "run: pip install 'sae-lens-ext[demo]'\n"
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from sae_lens_ext.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit:\n"
        "    heavy = {'torch', 'transformers', 'pandas', 'numpy'} & {*sys.modules}\n"
        "    sys.exit(f'loads {heavy}' if heavy else 0)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
