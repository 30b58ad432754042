"""How a command ends: text on standard output, or one line and an exit code."""

import sys
from collections.abc import Callable

from sae_lens_ext.errors import SaeLensExtError

PROGRAM = "sae-lens-ext"
"""The name that errors begin with, unless a command has one of its own."""


def echo(text: str) -> None:
    """Write a text to standard output, as lines of its own."""
    sys.stdout.write(f"{text}\n")


def exit_code(
    command: Callable[[], int | None],
    *,
    name: str = PROGRAM,
    goes_on_from: object = None,
) -> int:
    """Call a command and return its exit code.

    0 where it succeeds (or what it returns), 2 after an error of this package or of the
    operating system, 130 after control-C. The last two write one line to standard
    error. Any other exception is a defect and leaves with its traceback.

    Args:
        command: what to call.
        name: what the line on standard error begins with.
        goes_on_from: where the command will go on if it is repeated after control-C.
    """
    try:
        return command() or 0
    except (SaeLensExtError, OSError) as error:
        _complain(name, str(error))
        return 2
    except KeyboardInterrupt:
        hint = ""
        if goes_on_from is not None:
            hint = f"; the same command goes on from {goes_on_from}"
        _complain(name, f"interrupted{hint}")
        return 130


def _complain(name: str, message: str) -> None:
    one_line = " ".join(message.split())
    sys.stderr.write(f"{name}: {one_line}\n")
