"""What the names of repositories, folders and files say.

Some layouts have their site, their model or even their k nowhere else.
"""

import re
from pathlib import Path

# The cache of the hub keeps owner/name as one folder, above the commit.
_CACHED_REPO = re.compile(r"models--(.+?)--(.+)")


def origin(path: Path) -> str:
    """The names that lead to a file or folder, the hub's repository as ``owner/name``.

    >>> origin(Path("/hub/models--google--gemma-scope-2b-pt-res/snapshots/1a/layer_3"))
    '/hub/google/gemma-scope-2b-pt-res/snapshots/1a/layer_3'
    """
    parts = [_CACHED_REPO.sub(r"\1/\2", part) for part in path.absolute().parts]
    return "/".join(parts).replace("//", "/")


def number_in(pattern: str, names: str) -> int | None:
    r"""The number in the last match of a pattern with one group; None without a match.

    >>> number_in(r"layer_(\d+)", "layer_7/width_16k"), number_in(r"l0_(\d+)", "x")
    (7, None)
    """
    matches = re.findall(pattern, names)
    # Longer numbers are no number of a layer or of features.
    return int(matches[-1]) if matches and len(matches[-1]) < 10 else None
