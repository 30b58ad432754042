"""A known error is one line and exit code 2, control-C one line and 130."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.cli.outcome import echo, exit_code


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
    assert exit_code(raising(error), name="pretrain") == 2
    assert capsys.readouterr().err == "sae-lens-ext: too much\npretrain: too much\n"


def test_an_interruption_says_where_the_command_goes_on(capsys):
    assert exit_code(raising(KeyboardInterrupt)) == 130
    assert exit_code(raising(KeyboardInterrupt), goes_on_from="runs/mqar") == 130
    assert capsys.readouterr().err == (
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
