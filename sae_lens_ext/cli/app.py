"""Which command was typed. Only its name is parsed here; the rest is the command's."""

from collections.abc import Callable, Sequence

import tyro

import sae_lens_ext
from sae_lens_ext._optional import require
from sae_lens_ext.cli.outcome import PROGRAM, echo
from sae_lens_ext.cli.parsing import COMMANDS

_DESCRIPTION = "One sparse autoencoder, every k. --version prints the version."


def app(arguments: Sequence[str]) -> int:
    """Carry out a command and return its exit code.

    Args:
        arguments: the command's name and its options.

    Raises:
        SystemExit: with code 2 if an argument is invalid, after a message that names
            it; with code 0 after ``--help``.
        SaeLensExtError: a package that the command needs is not installed.
    """
    if not arguments:
        _show_help()
        return 2
    if arguments[0] == "--version":
        echo(sae_lens_ext.__version__)
        return 0
    name = _chosen_command(arguments[:1])
    command = require(f"sae_lens_ext.cli.{name}", f"{PROGRAM} {name}")
    return command.main(arguments[1:])


def _chosen_command(arguments: Sequence[str]) -> str:
    commands = {name: _command(name, text) for name, text in COMMANDS.items()}
    return tyro.extras.subcommand_cli_from_dict(
        commands, prog=PROGRAM, description=_DESCRIPTION, args=arguments
    )


def _command(name: str, text: str) -> Callable[[], str]:
    """A function that returns a name; tyro shows its docstring beside the name."""

    def command() -> str:
        return name

    command.__doc__ = text
    return command


def _show_help() -> None:
    try:
        _chosen_command(["--help"])
    except SystemExit:
        # The help itself was not asked for, so it is no success.
        return
