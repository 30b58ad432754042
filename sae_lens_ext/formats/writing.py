"""What all writers of SAEs share: a folder to write to, tensors in a file."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument


def writable_folder(folder: str | Path) -> Path:
    """A path at which a folder exists or can be made.

    Raises:
        InvalidArgument: not a path, or one that leads through a file.
    """
    if not isinstance(folder, str | Path) or folder == "":
        raise InvalidArgument(f"give the folder to save to as a path; got {folder!r}")
    folder = Path(folder).expanduser()
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
    # A name that is too long.
    except OSError as error:
        raise InvalidArgument(
            f"{str(folder)[:200]!r} cannot be the name of a folder: {error}"
        ) from error
    if not existing.is_dir():
        raise InvalidArgument(f"{existing} is a file; give a folder to save an SAE to")
    return folder


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, in the order of their numbers."""
    contiguous = {
        name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()
    }
    save_file(contiguous, path)
