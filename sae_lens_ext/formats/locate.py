"""From a path or the name of a repository to a folder on this machine."""

import re
from collections.abc import Sequence
from pathlib import Path

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError

# owner/name; neither is "." or "..", which begin a path.
_REPO = re.compile(r"(?!\.+/)[\w.-]{1,96}/(?!\.+$)[\w.-]{1,96}")
# Only the files that a reader of this package may need; a repository can hold much
# more.
_PATTERNS = ("*.json", "*.safetensors")


def locate(
    folder_or_repo: str | Path,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    also: Sequence[str] = (),
) -> Path:
    """The local folder for a path, or for a Hugging Face repository ``owner/name``.

    A repository is downloaded if it is not in the cache.

    Args:
        folder_or_repo: a folder; or, where no such folder exists, the name of a
            repository on the hub.
        subfolder: a folder inside it, relative and without ``..``.
        revision: branch, tag or commit of the repository; ignored for folders.
        also: patterns of files to download besides JSON and safetensors.

    Raises:
        FormatError: neither a folder nor the name of a repository, or a subfolder that
            is not inside it.
        MissingDependency: a repository was named and huggingface_hub is not installed.
    """
    if not isinstance(folder_or_repo, str | Path) or folder_or_repo == "":
        raise FormatError(
            "give the path of a folder or the name of a hub repository; got "
            f"{folder_or_repo!r}"
        )
    if not isinstance(subfolder, str | None):
        raise FormatError(
            f"subfolder must be the name of a folder, or None; got {subfolder!r}"
        )

    folder = _local_folder(folder_or_repo)
    if folder is None:
        patterns = [*_PATTERNS, *also]
        if subfolder:
            patterns = [f"{subfolder}/{pattern}" for pattern in patterns]
        folder = _download(
            str(folder_or_repo), revision, patterns, top_only=not subfolder
        )

    return folder if subfolder is None else _inside(folder, subfolder)


def _local_folder(folder_or_repo: str | Path) -> Path | None:
    """The folder with this path; None if the path should name a repository.

    Raises:
        FormatError: it can be neither.
    """
    folder = Path(folder_or_repo).expanduser()
    # A path that is too long raises an OSError.
    try:
        is_folder = folder.is_dir()
        exists = folder.exists()
    except OSError as error:
        raise FormatError(
            f"{str(folder_or_repo)[:80]!r}... is not a path that this machine can "
            f"have: {error.strerror}"
        ) from error

    if is_folder:
        return folder
    if exists:
        raise FormatError(f"{folder} is a file, so give the folder that holds it")
    if not _REPO.fullmatch(str(folder_or_repo)):
        raise FormatError(
            f"no folder {str(folder_or_repo)!r} here, and it is not the name of a hub "
            "repository (owner/name) either"
        )
    return None


def _download(
    repo: str,
    revision: str | None,
    patterns: list[str],
    *,
    top_only: bool,
) -> Path:
    """The local copy of a repository's files.

    ``top_only`` leaves out its folders: there can be an SAE for every layer in them,
    and gigabytes of weights.
    """
    # Imported late: it is optional, and slow to import.
    hub = require("huggingface_hub", f"Loading the hub repository {repo}")
    try:
        snapshot = hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["*/*"] if top_only else None,
        )
    except (
        hub.errors.RepositoryNotFoundError,
        hub.errors.RevisionNotFoundError,
    ) as error:
        at_revision = f" at revision {revision!r}" if revision else ""
        raise FormatError(
            f"no folder {repo!r} here, and the hub has no such repository that you may "
            f"read{at_revision}; check the name, or log in if it is a private one"
        ) from error
    except (hub.errors.LocalEntryNotFoundError, OSError) as error:
        raise FormatError(
            f"no folder {repo!r} here, and the hub cannot be reached to look for it "
            f"there ({type(error).__name__}); download it first and give the folder"
        ) from error
    return Path(snapshot)


def _inside(folder: Path, subfolder: str) -> Path:
    """A folder inside another.

    Raises:
        FormatError: it does not exist, or is not inside.
    """
    path = Path(subfolder)
    # Compares names, not what links point to: a hub snapshot is made of links into a
    # cache.
    is_outside = path.is_absolute() or ".." in path.parts
    if is_outside or not (folder / path).is_dir():
        raise FormatError(f"no folder {subfolder!r} inside {folder}")
    return folder / path
