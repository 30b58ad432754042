"""``python -m sae_lens_ext.based.pretrain`` is ``sae-lens-ext pretrain``."""

import sys

from sae_lens_ext.cli.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
