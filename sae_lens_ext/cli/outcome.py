"""How a command ends: text on standard output, or one line and an exit code."""

import contextlib
import os
import re
import select
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

from sae_lens_ext.errors import SaeLensExtError

PROGRAM = "sae-lens-ext"
"""The name that errors begin with."""

# As shells report a program that ended because nobody reads its output any more.
_BROKEN_PIPE = 141


def echo(text: str) -> None:
    """Write a text to standard output, as lines of its own."""
    sys.stdout.write(f"{text}\n")


def exit_code(
    command: Callable[[], int | None],
    *,
    options: Collection[str] = (),
    goes_on_from: Callable[[], object] | None = None,
) -> int:
    """Call a command and return its exit code.

    0 where it succeeds (or what it returns), 2 after an error of this package or of the
    operating system, 130 after control-C, 141 if nobody reads its output any more, as
    after ``| head``. Errors, control-C and warnings for users write one line each to
    standard error. Any other exception is a defect and leaves with its traceback.

    Args:
        command: what to call.
        options: names of fields that are options; messages then name the options.
        goes_on_from: says where the command will go on if it is repeated after
            control-C; None if nothing is there to go on from.
    """
    try:
        with _warnings_as_lines():
            return _flushed(command)
    except (SaeLensExtError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            return _BROKEN_PIPE
        complain(in_options(str(error), options))
        return 2
    except KeyboardInterrupt:
        place = None if goes_on_from is None else goes_on_from()
        hint = f"; the same command goes on from {place}" if place else ""
        complain(f"interrupted{hint}")
        return 130


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Write warnings for users without the line of code that they come from."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_in_one_line(
            message: Warning | str, category: type[Warning], *rest: Any
        ) -> None:
            if issubclass(category, UserWarning):
                complain(f"warning: {message}")
            else:
                show(message, category, *rest)

        warnings.showwarning = show_in_one_line
        yield


def in_options(message: str, names: Collection[str]) -> str:
    """A message about fields as one about the options that stand for them.

    Names of one word are often words of the sentence too, so they are replaced only
    where a value or a rule follows.

    >>> in_options("fewest_pairs must not exceed pairs=2", ["fewest_pairs", "pairs"])
    '--fewest-pairs must not exceed --pairs=2'
    """
    for name in sorted(names, key=len, reverse=True):
        option = name.replace("_", "-")
        whole = rf"(?<![\w./'\"-]){name}(?![\w./(-])"
        message = re.sub(rf"{whole}=True\b", f"--{option}", message)
        message = re.sub(rf"{whole}=False\b", f"--no-{option}", message)
        followed = r"(?= must\b|=| is [^;]* there and )"
        message = re.sub(
            whole if "_" in name else whole + followed, f"--{option}", message
        )
        message = re.sub(rf"(^|; ){name}(?= ')", rf"\1--{option}", message)
    return message


def _flushed(command: Callable[[], int | None]) -> int:
    """Call a command; what it wrote has arrived, or an error says that it has not."""
    try:
        return command() or 0
    finally:
        # Here and not at the end of the process, where an error would be a traceback.
        sys.stdout.flush()


def _is_output_closed() -> bool:
    """Whether nobody reads standard output; then nothing more is written to it."""
    try:
        output = sys.stdout.fileno()
        poll = select.poll()
    # Not a file, as in notebooks, or a system without this call.
    except (AttributeError, OSError, ValueError):
        return False
    poll.register(output, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False

    # Python writes what is left when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def complain(message: str) -> None:
    """Write an error to standard error, as one line."""
    one_line = " ".join(message.split())
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(f"{PROGRAM}: {one_line}\n")
