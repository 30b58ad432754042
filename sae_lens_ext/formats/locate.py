"""From a path or the name of a repository to a folder or file on this machine."""

import re
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError, closest
from sae_lens_ext.formats.choices import needed_files

# owner/name; neither is "." or "..", which begin a path.
_REPO = re.compile(r"(?!\.+/)[\w.-]{1,96}/(?!\.+$)[\w.-]{1,96}")
# What the weights of a whole model are in, and what describes them.
_MODEL_PATTERNS = ("*.json", "*.safetensors")


def locate(
    folder_or_repo: str | Path,
    *,
    subfolder: str | Path | None = None,
    revision: str | None = None,
) -> Path:
    """The local folder or file of an SAE, in a folder or a Hugging Face repository.

    Of a repository ``owner/name``, the files that the SAE needs are downloaded if they
    are not in the cache.

    Args:
        folder_or_repo: a folder; or, where no such folder exists, the name of a
            repository on the hub.
        subfolder: a folder or file inside it, relative and without ``..``.
        revision: branch, tag or commit of the repository; ignored for folders.

    Raises:
        FormatError: neither a folder nor the name of a repository, a subfolder that is
            not inside it, or a repository in which nothing, or more than one SAE, is
            there to read.
        MissingDependency: a repository was named and huggingface_hub is not installed.
    """
    folder = _checked_folder(folder_or_repo)
    if isinstance(subfolder, Path):
        subfolder = subfolder.as_posix()
    if not isinstance(subfolder, str | None):
        raise FormatError(
            f"subfolder must be the name of a folder, or None; got {subfolder!r}"
        )
    if subfolder is not None and _leads_outside(subfolder):
        raise FormatError(f"no folder {subfolder!r} inside {folder_or_repo}")
    if folder is None:
        folder = _download_sae(str(folder_or_repo), revision, subfolder)
    if subfolder is None:
        return folder

    # Compares names, not what links point to: a hub snapshot is made of links into a
    # cache.
    place = folder / subfolder
    if not _exists(place):
        names = sorted(path.name for path in _nearest(place).iterdir())
        raise FormatError(
            f"no folder or file {subfolder[:200]!r} inside {folder}; the closest: "
            f"{closest(place.name, names)}"
        )
    return place


def _nearest(place: Path) -> Path:
    """The innermost folder on the way to a place that does not exist."""
    return next(
        folder for folder in place.parents if _exists(folder) and folder.is_dir()
    )


def locate_model(
    folder_or_repo: str | Path,
    *,
    revision: str | None = None,
    also: Sequence[str] = (),
) -> Path:
    """The local folder of a whole model; see ``locate``.

    Of a repository, the files at its top that hold JSON or safetensors are downloaded,
    and those that fit the patterns in ``also``.
    """
    folder = _checked_folder(folder_or_repo)
    if folder is not None:
        return folder
    repo = str(folder_or_repo)
    hub = _hub(repo)
    # The folders of a repository can hold as much again.
    return _snapshot(
        hub,
        repo,
        revision=revision,
        allow_patterns=[*_MODEL_PATTERNS, *also],
        ignore_patterns=["*/*"],
    )


def _checked_folder(folder_or_repo: object) -> Path | None:
    if not isinstance(folder_or_repo, str | Path) or folder_or_repo == "":
        raise FormatError(
            "give the path of a folder or the name of a hub repository; got "
            f"{folder_or_repo!r}"
        )
    return _local_folder(folder_or_repo)


def _exists(path: Path) -> bool:
    # A name that is too long raises an OSError.
    try:
        return path.exists()
    except OSError:
        return False


def _leads_outside(subfolder: str) -> bool:
    path = Path(subfolder)
    return path.is_absolute() or ".." in path.parts or "\0" in subfolder


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


def _download_sae(repo: str, revision: str | None, subfolder: str | None) -> Path:
    """The local copy of a repository with the files of one SAE."""
    hub = _hub(repo)
    try:
        paths = hub.HfApi().list_repo_files(repo, revision=revision)
    except (
        hub.errors.RepositoryNotFoundError,
        hub.errors.RevisionNotFoundError,
    ) as error:
        raise _no_repository(repo, revision) from error
    # Offline, unreachable or overloaded, in many ways: an earlier download may be here.
    except Exception:
        # No file is asked for by name: what an SAE needs, its reader will say.
        return _snapshot(
            hub,
            repo,
            revision=revision,
            local_files_only=True,
            allow_patterns=[],
        )

    names = needed_files(repo, sorted(paths), subfolder)
    return _snapshot(
        hub, repo, revision=revision, allow_patterns=[escape(name) for name in names]
    )


def _hub(repo: str) -> Any:
    # Imported late: it is optional, and slow to import.
    return require("huggingface_hub", f"Loading the hub repository {repo}")


def _snapshot(hub: Any, repo: str, **options: Any) -> Path:
    try:
        return Path(hub.snapshot_download(repo, **options))
    except (
        hub.errors.RepositoryNotFoundError,
        hub.errors.RevisionNotFoundError,
    ) as error:
        raise _no_repository(repo, options["revision"]) from error
    except (
        hub.errors.LocalEntryNotFoundError,
        hub.errors.HfHubHTTPError,
        hub.errors.HFValidationError,
        OSError,
    ) as error:
        raise FormatError(
            f"no folder {repo!r} here, and the hub cannot be reached to look for it "
            f"there ({type(error).__name__}); download it first and give the folder"
        ) from error


def _no_repository(repo: str, revision: str | None) -> FormatError:
    at_revision = f" at revision {revision!r}" if revision else ""
    return FormatError(
        f"no folder {repo!r} here, and the hub has no such repository that you may "
        f"read{at_revision}; check the name, or log in if it is a private one"
    )
