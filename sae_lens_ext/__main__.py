"""Run the command line: ``python -m sae_lens_ext`` is ``sae-lens-ext``."""

from sae_lens_ext.cli import main

main()
