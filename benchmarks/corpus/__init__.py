"""A varied text corpus from Debian's documentation packages.

``python -m benchmarks corpus`` on Debian 12 (or any machine whose ``apt-get`` knows its
packages; run ``apt-get update`` before) writes three files of JSON lines, compressed
with gzip, to ``corpora`` in the package's cache folder:

===================== ==================================================================
debian-train.jsonl.gz nineteenth-century novels, Bible commentaries, political essays,
                      the dialogues of a game, dictionaries, manuals on music,
                      graphics, mathematics, systems and programming: see ``packages``
fortunes.jsonl.gz     the package ``fortunes``: sayings, jokes, verse. Held out
postgresql.jsonl.gz   the documentation of PostgreSQL 15. Held out
===================== ==================================================================

Held out means that no SAE of this project is trained on it. Each line has the text, the
package and the file it comes from.

1. ``apt-get download`` fetches the packages and ``dpkg-deb -x`` unpacks them; nothing
   is installed.
2. Pages become plain text: HTML by trafilatura, manual pages by mandoc.
3. Paragraphs that came before are dropped (licences, navigation, repeated options).
4. Texts are cut into documents of at most 8,000 characters, sampled down to each
   package's share and put into the order of their digests.

The same packages give the same bytes. It needs ``trafilatura`` and ``rdata``; with them
comes lxml. Texts stay under their licences, which ``packages`` names.
"""

import gzip
import json
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.corpus.documents import Cleaner, digest, documents_of
from benchmarks.corpus.packages import HELD_OUT, TOOLS, TRAINING, Package
from benchmarks.corpus.readers import texts_of
from sae_lens_ext.demo import cache_folder
from sae_lens_ext.formats.atomic import replacing


def run() -> dict[str, Any]:
    """Write the corpora, and print what each package gave."""
    missing = [name for name in ("trafilatura", "rdata") if find_spec(name) is None]
    if missing:
        raise SystemExit(f"corpus needs {' and '.join(missing)}: pip install them")

    folder = cache_folder() / "corpora"
    corpora = {"debian-train": TRAINING}
    corpora |= {name: (package,) for name, package in HELD_OUT.items()}
    counts = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        tools = [_unpacked(name, root) / "usr/bin" for name in TOOLS]
        for name, packages in corpora.items():
            cleaner = Cleaner()
            rows = [
                row
                for package in packages
                for row in _rows(package, root, tools[0], cleaner)
            ]
            rows.sort(key=lambda row: digest(row["text"]))
            _write(folder / f"{name}.jsonl.gz", rows)
            counts[name] = _counts(rows)
    return counts


def _rows(
    package: Package, root: Path, tools: Path, cleaner: Cleaner
) -> list[dict[str, str]]:
    """Documents of a package, up to its share."""
    folder = _unpacked(package.name, root)
    paths = sorted(path for path in folder.glob(package.pattern) if path.is_file())
    # A sample from all over the package, the same one every time.
    paths.sort(key=lambda path: digest(str(path.relative_to(folder))))

    rows = []
    for path, text in _documents(package, paths, tools, cleaner):
        source = str(path.relative_to(folder))
        rows.append({"text": text, "package": package.name, "file": source})
    rows.sort(key=lambda row: digest(row["text"]))

    size = 0
    for n_rows, row in enumerate(rows):
        size += len(row["text"])
        if size > package.most:
            rows = rows[:n_rows]
            break
    n_characters = sum(len(row["text"]) for row in rows)
    print(f"{package.name:26s} {len(rows):6d} documents {n_characters:10,d} characters")
    return rows


def _documents(
    package: Package, paths: Iterable[Path], tools: Path, cleaner: Cleaner
) -> Iterator[tuple[Path, str]]:
    """Documents until the share is reached, the last file's all."""
    size = 0
    for path in paths:
        for text in documents_of(texts_of(package.reader, path, tools), cleaner):
            size += len(text)
            yield path, text
        if size > package.most:
            return


def _unpacked(name: str, root: Path) -> Path:
    """The folder of a package's files."""
    folder = root / name
    folder.mkdir()
    try:
        command = ["apt-get", "download", "-qq", name]
        subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        (archive,) = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=folder, check=True)
        archive.unlink()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"the package {name} could not be had ({error}); this needs Debian's "
            "apt-get, after `apt-get update`"
        ) from error
    return folder


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # Without the time, so that the same rows give the same bytes.
    data = gzip.compress(lines.encode("utf-8", "replace"), mtime=0)
    with replacing(path) as temporary:
        Path(temporary).write_bytes(data)


def _counts(rows: Iterable[dict[str, str]]) -> dict[str, int]:
    """Characters by package."""
    counts: dict[str, int] = {}
    for row in rows:
        package = row["package"]
        counts[package] = counts.get(package, 0) + len(row["text"])
    return dict(sorted(counts.items()))
