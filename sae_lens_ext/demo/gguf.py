"""From the GGUF file of a package to an ordinary Hugging Face folder.

1. The package's four parts are joined into one GGUF file, whose checksum the package
   knows.
2. transformers reads the tokenizer and the weights out of it; the weights become
   float32. This is what takes a minute.
3. Everything is written as safetensors, read back and compared.
"""

import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors
import torch

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError

_PURPOSE = "Reading the bundled model"
# What a step adds to the progress bar: its seconds on two cores.
_SECONDS = {"assemble": 3, "tokenizer": 35, "weights": 20, "write": 5, "check": 2}


def convert(
    package: str,
    gguf: str,
    folder: Path,
    progress: bool,
) -> None:
    """Write a model and its tokenizer to a folder that does not exist yet.

    Args:
        package: module with a function ``assemble(output_path, overwrite)`` that writes
            the GGUF file.
        gguf: name of that file.
        folder: where to write.
        progress: whether to show a progress bar.

    Raises:
        MissingDependency: the package, or one that reads GGUF files, is not installed.
        FormatError: the written files do not read back as they were written.
    """
    weights = require(package, "The bundled model")
    for library in ("gguf", "accelerate", "sentencepiece"):
        require(library, "Reading the bundled model's GGUF file")
    transformers = require("transformers", "The bundled model")
    tqdm = require("tqdm.auto", "Showing progress").tqdm

    raw = folder / "gguf"
    raw.mkdir(parents=True)
    with tqdm(
        total=sum(_SECONDS.values()),
        desc="preparing the model (once)",
        disable=not progress,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}",
    ) as bar:
        weights.assemble(raw / gguf, overwrite=True)
        bar.update(_SECONDS["assemble"])

        with _gguf_reader_shared(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(raw, gguf_file=gguf)
            bar.update(_SECONDS["tokenizer"])
            quantised = transformers.AutoModelForCausalLM.from_pretrained(
                raw, gguf_file=gguf, dtype=torch.float32
            )
            bar.update(_SECONDS["weights"])
            plain = _plain_model(quantised)
            plain.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            bar.update(_SECONDS["write"])

        shutil.rmtree(raw)
        check_written(folder, quantised.state_dict())
        bar.update(_SECONDS["check"])


def _plain_model(quantised: Any) -> Any:
    """The same weights in a model that can be saved.

    A model that was loaded from a GGUF file counts as quantised and refuses to be
    saved, also after its weights became float32.
    """
    config = quantised.config.to_dict()
    config.pop("quantization_config", None)
    with torch.device("meta"):
        plain = type(quantised)(type(quantised.config).from_dict(config))
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    return plain


def check_written(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Read every tensor back and compare it bit for bit with the one that was written.

    Args:
        folder: a folder with safetensors files.
        state: the tensors by name. Tied weights are one tensor under two names, of
            which one is written.

    Raises:
        FormatError: a tensor is missing or different.
    """
    names: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as file:
            written = file.keys()
            names.update(written)
            for name in written:
                tensor = state.get(name)
                if tensor is None or not torch.equal(file.get_tensor(name), tensor):
                    raise FormatError(
                        f"{path} does not hold what was written to it ({name}); "
                        "is the disk full or failing?"
                    )

    addresses = {state[name].data_ptr() for name in names}
    missing = [
        name
        for name, tensor in state.items()
        if name not in names and tensor.data_ptr() not in addresses
    ]
    if missing:
        raise FormatError(
            f"{len(missing)} tensors were not written to {folder} ({missing[0]}, ...); "
            "is the disk full or failing?"
        )


@contextmanager
def _gguf_reader_shared(transformers: Any) -> Iterator[None]:
    """Make transformers parse the local file once, without a hub and without bars.

    It opens the file three times (tokenizer, config, weights), and each time gguf takes
    25 seconds to parse the 262,144 tokens in its header; sharing one reader halves the
    time of the whole preparation.
    """
    gguf = require("gguf", _PURPOSE)
    verbosity = transformers.logging.get_verbosity()
    shows_bars = transformers.utils.logging.is_progress_bar_enabled()

    shared_reader = functools.cache(gguf.GGUFReader)
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, HF_HUB_OFFLINE="1"))
        stack.enter_context(patch.object(gguf, "GGUFReader", shared_reader))
        # Its bars would stand inside the one of the preparation.
        reader_module = require("transformers.modeling_gguf_pytorch_utils", _PURPOSE)
        without_bar = patch.object(reader_module, "tqdm", lambda items, **_: items)
        stack.enter_context(without_bar)

        transformers.logging.set_verbosity_error()
        stack.callback(transformers.logging.set_verbosity, verbosity)
        transformers.logging.disable_progress_bar()
        if shows_bars:
            stack.callback(transformers.logging.enable_progress_bar)
        yield
