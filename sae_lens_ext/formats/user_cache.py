"""Where things are kept that can be made, or fetched, again."""

import os
from pathlib import Path

from sae_lens_ext._optional import require


def cache_folder() -> Path:
    """The user's folder for prepared models, trained demo SAEs and fetched labels.

    ``$SAE_LENS_EXT_CACHE``, or the user's cache folder if that is not set.
    """
    folder = os.environ.get("SAE_LENS_EXT_CACHE")
    if folder:
        return Path(folder).expanduser()
    platformdirs = require("platformdirs", "Finding the user's cache folder")
    return platformdirs.user_cache_path("sae-lens-ext")
