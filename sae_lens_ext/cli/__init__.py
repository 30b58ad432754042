"""The command line, ``sae-lens-ext``. A failure is one line on standard error, a wrong option a box that
names it; both exit with 2."""

import sys

from sae_lens_ext._optional import require
from sae_lens_ext.errors import SaeLensExtError


def main() -> None:
    """Run the command that was typed, then exit."""
    try:
        require("typer", "The command line")
        from sae_lens_ext.cli.app import app

        sys.exit(app(standalone_mode=True))
    except (SaeLensExtError, OSError) as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"sae-lens-ext: {message}\n")
        sys.exit(2)
