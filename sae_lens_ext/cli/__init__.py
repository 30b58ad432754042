"""The command line, ``sae-lens-ext``.

======== ========================================================================
module   what it holds
======== ========================================================================
app      which command was typed
parsing  arguments -> the options of a command
outcome  an error or an interruption -> one line and an exit code
demo     the options of ``sae-lens-ext demo``, and what they start; ``mqar`` and
         ``pretrain`` are the same for their commands
======== ========================================================================

The modules of the commands are imported after one of them is chosen: they import torch,
which takes seconds.
"""

import sys
from collections.abc import Sequence

from sae_lens_ext._optional import require
from sae_lens_ext.cli.outcome import exit_code


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out a command, then exit.

    Args:
        arguments: those of the command line; None takes the ones that were typed.
    """
    if arguments is None:
        arguments = sys.argv[1:]

    def command() -> int:
        require("tyro", "The command line")
        app = require("sae_lens_ext.cli.app", "The command line").app
        return app(arguments)

    sys.exit(exit_code(command))
