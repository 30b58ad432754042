"""A known error is one line and exit code 2, control-C one line and 130."""

import subprocess
import sys
import warnings

import pytest

import sae_lens_ext as sle
from sae_lens_ext.cli.outcome import echo, exit_code, in_options


def raising(error):
    def command():
        raise error

    return command


def test_returns_what_the_command_returns():
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 2) == 2


@pytest.mark.parametrize(
    "error", [sle.InvalidArgument("too\n  much"), OSError("too\nmuch")]
)
def test_an_error_is_one_line(error, capsys):
    assert exit_code(raising(error)) == 2
    assert capsys.readouterr().err == "sae-lens-ext: too much\n"


@pytest.mark.filterwarnings("default")
def test_a_warning_for_users_is_one_line_without_code(capsys):
    def command():
        warnings.warn("2 files\n are left out", UserWarning, stacklevel=1)
        warnings.warn("use another", FutureWarning, stacklevel=1)

    with pytest.warns(FutureWarning, match="use another"):
        assert exit_code(command) == 0
    assert capsys.readouterr().err == "sae-lens-ext: warning: 2 files are left out\n"


def test_an_interruption_says_where_the_command_goes_on(capsys):
    assert exit_code(raising(KeyboardInterrupt)) == 130
    for place in (lambda: None, lambda: "runs/mqar"):
        assert exit_code(raising(KeyboardInterrupt), goes_on_from=place) == 130
    assert capsys.readouterr().err == (
        "sae-lens-ext: interrupted\n"
        "sae-lens-ext: interrupted\n"
        "sae-lens-ext: interrupted; the same command goes on from runs/mqar\n"
    )


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(raising(ZeroDivisionError))


def test_echo_ends_a_text_with_a_line_break(capsys):
    echo("a")
    echo("b\nc")
    assert capsys.readouterr().out == "a\nb\nc\n"


NAMES = ["fewest_pairs", "pairs", "steps", "text", "eval_text", "deep", "lr"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "fewest_pairs must not exceed the pairs=2; got 3; steps must be 1",
            "--fewest-pairs must not exceed the --pairs=2; got 3; --steps must be 1",
        ),
        ("give deep=False or deep=True", "give --no-deep or --deep"),
        (
            "another text to test on (eval_text)",
            "another text to test on (--eval-text)",
        ),
        ("the text of all steps and pairs", "the text of all steps and pairs"),
        ("/tmp/fewest_pairs/x is a file", "/tmp/fewest_pairs/x is a file"),
        ("steps is 4 there and 5 here", "--steps is 4 there and 5 here"),
        ("text 'x' and the text 'y'", "--text 'x' and the text 'y'"),
        ("--pairs=3 must be lr", "--pairs=3 must be lr"),
    ],
)
def test_messages_name_options_in_place_of_fields(message, expected):
    assert in_options(message, NAMES) == expected


PRINTS = """
import sys
from sae_lens_ext.cli.outcome import echo, exit_code

def command():
    for number in range({n}):
        echo(f"line {{number}}")

sys.exit(exit_code(command))
"""


@pytest.mark.parametrize("n", [1, 100_000])
def test_output_that_nobody_reads_is_no_traceback(n):
    command = [sys.executable, "-c", PRINTS.format(n=n)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141
