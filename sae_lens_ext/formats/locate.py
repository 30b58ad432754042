"""From what a user types to a folder on this machine."""

import re
from collections.abc import Sequence
from pathlib import Path

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError

# owner/name; neither is "." or "..", which begin a path.
_REPO = re.compile(r"(?!\.+/)[\w.-]{1,96}/(?!\.+$)[\w.-]{1,96}")
# Only what a reader of this package may need; a repository can hold much more.
_PATTERNS = ("*.json", "*.safetensors")


def locate(
    folder_or_repo: str | Path,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    also: Sequence[str] = (),
) -> Path:
    """The local folder for a path, or for a Hugging Face repository ``owner/name``, which is downloaded when it is not here.

    Args:
        folder_or_repo: a folder; or, when no such folder exists, the name of a repository on the hub.
        subfolder: a folder inside of it, relative and without ``..``.
        revision: branch, tag or commit of the repository; ignored for folders.
        also: patterns of files to download beside JSON and safetensors.

    Raises:
        FormatError: neither a folder nor the name of a repository, or a subfolder that is not inside it.
        MissingDependency: a repository was named and huggingface_hub is not installed.
    """
    if not isinstance(folder_or_repo, str | Path) or folder_or_repo == "":
        raise FormatError(
            f"give the path of a folder or the name of a hub repository; got {folder_or_repo!r}"
        )
    if not isinstance(subfolder, str | None):
        raise FormatError(
            f"subfolder must be the name of a folder, or None; got {subfolder!r}"
        )
    folder = Path(folder_or_repo).expanduser()
    try:
        is_folder, is_there = folder.is_dir(), folder.exists()
    except OSError as error:
        raise FormatError(
            f"{str(folder_or_repo)[:80]!r}... is no path this machine can have: {error.strerror}"
        ) from error
    if not is_folder:
        if is_there:
            raise FormatError(f"{folder} is a file, so give the folder that holds it")
        if not _REPO.fullmatch(str(folder_or_repo)):
            raise FormatError(
                f"no folder {str(folder_or_repo)!r} here, and it is not the name of a hub repository (owner/name) either"
            )
        hub = require("huggingface_hub", f"Loading the hub repository {folder_or_repo}")
        patterns = [
            f"{subfolder}/{pattern}" if subfolder else pattern
            for pattern in (*_PATTERNS, *also)
        ]
        try:
            deeper = (
                None if subfolder else ["*/*"]
            )  # a repository can hold an SAE for every layer, and gigabytes of them
            folder = Path(
                hub.snapshot_download(
                    str(folder_or_repo),
                    revision=revision,
                    allow_patterns=patterns,
                    ignore_patterns=deeper,
                )
            )
        except (
            hub.errors.RepositoryNotFoundError,
            hub.errors.RevisionNotFoundError,
        ) as error:
            at = f" at revision {revision!r}" if revision else ""
            raise FormatError(
                f"no folder {str(folder_or_repo)!r} here, and the hub has no such repository that you may read{at}; check the name, "
                "or log in if it is a private one"
            ) from error
        except (hub.errors.LocalEntryNotFoundError, OSError) as error:
            raise FormatError(
                f"no folder {str(folder_or_repo)!r} here, and the hub cannot be reached to look for it there ({type(error).__name__}); "
                "download it first and give the folder"
            ) from error
    if subfolder is None:
        return folder
    inside = folder / subfolder
    # A hub snapshot is made of links into a cache, so this compares names, not what the links point to.
    if (
        Path(subfolder).is_absolute()
        or ".." in Path(subfolder).parts
        or not inside.is_dir()
    ):
        raise FormatError(f"no folder {subfolder!r} inside {folder}")
    return inside
