"""Where the tests, the repository and the package are."""

from pathlib import Path

import sae_lens_ext

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
PACKAGE = Path(sae_lens_ext.__file__).parent
