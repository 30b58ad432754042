"""The files of an index: safetensors and JSON, each replaced as a whole.

=========================== ==========================================================
file                        what it holds
=========================== ==========================================================
``checkpoint.safetensors``  the state after a part of the text, while the text is read
``features.safetensors``    the counts, contexts and effects of all features
``tokens.json``             the text of the tokens that occur in them
``index.json``              where all that comes from, and the digests of the other
                            two: an index without it is not complete
=========================== ==========================================================
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.formats.atomic import delete_temporary, replacing, saving
from sae_lens_ext.formats.reading import read_object, read_safetensors
from sae_lens_ext.training.stream.cache.shards import digest_of
from sae_lens_ext.training.stream.states import differences

INDEX = "index.json"
FEATURES = "features.safetensors"
TOKENS = "tokens.json"
CHECKPOINT = "checkpoint.safetensors"
_FILES = (INDEX, FEATURES, TOKENS, CHECKPOINT)
_KIND = "sae_lens_ext feature index"
_VERSION = 1
_LACKING = "it is not an index of features, or it is not complete: make it again"
_PROGRESS = "progress"


class Progress(NamedTuple):
    """How far the text was read."""

    source: Mapping[str, Any]
    """The position in the text."""
    n_rows: int
    """Rows that were run."""
    n_tokens: int
    """Tokens that were encoded."""


class Contents(NamedTuple):
    """What a complete index holds."""

    about: Mapping[str, Any]
    """``settings``, ``n_tokens``, ``n_rows``, ``model_name`` and the like."""
    tensors: Mapping[str, Tensor]
    """The numbers of the features."""
    strings: Mapping[int, str]
    """The text of tokens."""


def is_complete(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a folder holds the index of these settings; False for a new one.

    Raises:
        InvalidArgument: it holds an index with other settings, or something else.
        FormatError: what it holds is damaged.
    """
    if (folder / INDEX).exists():
        _check_settings(folder, _read_index(folder)["settings"], settings)
        return True
    others = [
        path.name
        for path in folder.iterdir()
        if path.name not in _FILES and not path.name.startswith(".")
    ]
    if others:
        raise InvalidArgument(
            f"{folder} is not empty and holds no index of features (it holds "
            f"{min(others)}); give another folder"
        )
    return False


def has_progress(folder: Path) -> bool:
    """Whether a folder holds an index, or a part of one to go on from."""
    return (folder / INDEX).exists() or (folder / CHECKPOINT).exists()


def delete_unfinished(folder: Path) -> None:
    """Delete files that were being written, or not yet deleted, at a kill."""
    if (folder / INDEX).exists():
        (folder / CHECKPOINT).unlink(missing_ok=True)
    for path in folder.iterdir():
        # Files are written under hidden names first; see formats.atomic.
        if path.name.startswith(tuple(f".{name}." for name in _FILES)):
            delete_temporary(path)


def write_checkpoint(
    folder: Path,
    settings: Mapping[str, Any],
    progress: Progress,
    tensors: Mapping[str, Tensor],
) -> None:
    """Replace the checkpoint of a folder."""
    facts = {"settings": settings, **progress._asdict()}
    with replacing(folder / CHECKPOINT) as temporary, saving(folder / CHECKPOINT):
        save_file(dict(tensors), temporary, {_PROGRESS: json.dumps(facts)})


def read_checkpoint(
    folder: Path, settings: Mapping[str, Any]
) -> tuple[Progress, dict[str, Tensor]] | None:
    """The checkpoint of a folder; None where there is none.

    Raises:
        InvalidArgument: it is one with other settings.
        FormatError: it is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_PROGRESS])
        progress = Progress(*(facts[name] for name in Progress._fields))
        before = facts["settings"]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise FormatError(
            f"{path} cannot be read ({error}); delete the folder and make the index "
            "again"
        ) from error
    _check_settings(folder, before, settings)
    return progress, read_safetensors(path)


def write_index(
    folder: Path,
    about: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    strings: Mapping[int, str],
) -> None:
    """Write a complete index, and delete the checkpoint."""
    with replacing(folder / FEATURES) as temporary, saving(folder / FEATURES):
        save_file(
            {name: part.contiguous() for name, part in tensors.items()}, temporary
        )
    with replacing(folder / TOKENS) as temporary:
        # Escaped, because a token may be half of a character.
        temporary.write_text(json.dumps(strings), encoding="ascii")

    digests = {name: digest_of(folder / name) for name in (FEATURES, TOKENS)}
    content = {"kind": _KIND, "version": _VERSION, **about, "sha256": digests}
    with replacing(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    (folder / CHECKPOINT).unlink(missing_ok=True)


def read_contents(folder: Path) -> Contents:
    """Read a complete index.

    Raises:
        FormatError: there is none, or it is damaged.
    """
    about = _read_index(folder)
    for name in (FEATURES, TOKENS):
        _check_digest(folder / name, about["sha256"].get(name))
    strings = read_object(folder / TOKENS, _LACKING)
    return Contents(
        about,
        read_safetensors(folder / FEATURES),
        {int(number): text for number, text in strings.items()},
    )


def _check_digest(path: Path, sha256: object) -> None:
    try:
        digest = digest_of(path)
    except OSError as error:
        raise FormatError(
            f"{path} cannot be read ({error}); delete the folder and make the index "
            "again"
        ) from error
    if digest != sha256:
        raise FormatError(
            f"{path} holds other bytes than were written (its sha256 differs); delete "
            "the folder and make the index again"
        )


def _read_index(folder: Path) -> dict[str, Any]:
    if folder.exists() and not folder.is_dir():
        raise FormatError(f"{folder} is a file; give the folder of an index")
    path = folder / INDEX
    content = read_object(path, _LACKING)
    is_index = content.get("kind") == _KIND and content.get("version") == _VERSION
    has_parts = all(
        isinstance(content.get(name), Mapping) for name in ("settings", "sha256")
    )
    if not is_index or not has_parts:
        raise FormatError(
            f"{path} is not that of an index of features of version {_VERSION}; make "
            "the index again in another folder"
        )
    return content


def _check_settings(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    changes = differences(before, now)
    if changes:
        raise InvalidArgument(
            f"{folder} holds an index with other settings: {'; '.join(changes)}. Give "
            "another folder, or delete this one"
        )
