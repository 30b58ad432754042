"""Where a long benchmark keeps what it has done so far."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import machine_line
from sae_lens_ext.demo import cache_folder
from sae_lens_ext.formats.atomic import replacing


def unfinished_folder(name: str) -> Path:
    """A folder of the package's cache, of this machine and commit.

    A benchmark that was interrupted goes on from what is in it, and deletes it at the
    end.

    Args:
        name: of the benchmark.
    """
    digest = hashlib.sha256(machine_line().encode()).hexdigest()[:8]
    folder = cache_folder() / "benchmarks" / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Parts:
    """Results that were computed, by name, a file for each.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Parts(folder).get("sum", lambda: 1 + 1)
    2
    >>> Parts(folder).get("sum", lambda: 1 / 0)
    2
    """

    def __init__(self, folder: Path) -> None:
        """Keep results in a folder.

        Args:
            folder: of the benchmark.
        """
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """A result; it is computed if it is not there.

        Args:
            name: of the result.
            compute: returns it, as JSON values.
        """
        path = self._folder / f"{name}.json"
        if not path.exists():
            result = compute()
            # A file that a kill has cut would be taken for a result.
            with replacing(path) as temporary:
                Path(temporary).write_text(json.dumps(result), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))
