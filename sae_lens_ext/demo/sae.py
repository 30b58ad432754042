"""The SAEs that come with the package, and text for them.

Three HierarchicalTopK SAEs of the bundled model's residual stream, after blocks 5, 9
and 13 of 18. ``python -m benchmarks bundled_saes`` made them; ``saes/*/README.md`` says
of what, and how good they are.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxtyping import Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.demo.bundled import load_folder, prepare_bundled
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.formats.user_cache import cache_folder
from sae_lens_ext.hosts import host_for
from sae_lens_ext.sae import SAE
from sae_lens_ext.text import default_documents, docstrings, pack, split_documents
from sae_lens_ext.training.activations import Activations, collect_activations

DEMO_SAES: Mapping[int, str] = MappingProxyType(
    {block: f"blocks.{block}.hook_resid_post" for block in (5, 9, 13)}
)
"""The sites of the bundled SAEs, by their block."""

DEMO_SITE = DEMO_SAES[9]
# (d_model, layers, words) of the model.
_SIZES = (640, 18, 262_144)
# Increased with every change of the rows, or of how they are collected.
_VERSION = 1


def demo_sae(model: Any, block: int = 9) -> SAE:
    """A HierarchicalTopK SAE of the bundled model, from the files of this package.

    It was trained at every k up to 64, on 5 million tokens; after block 9 it has 4,096
    features, after blocks 5 and 13 it has 2,048.

    Args:
        model: what ``load_bundled()`` returned, on any library.
        block: 5, 9 or 13.

    Raises:
        InvalidArgument: the model is another one, or there is no SAE after that block.
    """
    _check_model(model)
    check_block(block)
    return SAE.from_pretrained(Path(__file__).with_name("saes") / DEMO_SAES[block])


def check_block(block: int) -> None:
    """Check that there is an SAE after this block; errors as in ``demo_sae``."""
    if block not in DEMO_SAES:
        blocks = ", ".join(str(known) for known in DEMO_SAES)
        raise InvalidArgument(
            f"the package has SAEs of the bundled model after blocks {blocks}; got "
            f"block={block!r}"
        )


def demo_activations(
    model: Any, *, n_rows: int = 472, progress: bool = True
) -> Activations:
    """60,000 activations of the bundled model after block 9, outliers clipped.

    For small trainings: the text is the standard library's documentation. They are
    collected once, in about two minutes, and kept (150 MB).

    Args:
        model: what ``load_bundled()`` returned, on any library.
        n_rows: rows of text, of 127 activations each; fewer take less time and space.
        progress: whether to show progress bars.

    Raises:
        InvalidArgument: the model is another one.
    """
    _check_model(model)
    n_rows = arguments.positive_int(n_rows, "n_rows")
    name = f"gemma-3-270m-block-9-{n_rows}-rows-v{_VERSION}.safetensors"
    path = cache_folder() / "activations" / name
    try:
        return Activations.load(path)
    except FormatError:
        # Not there yet, or damaged: they are collected in both cases.
        pass

    tokenizer = getattr(model, "tokenizer", None)
    # The bare Hugging Face module has none.
    if tokenizer is None:
        _, tokenizer = load_folder(prepare_bundled(progress=progress))
    documents = split_documents(default_documents(), held_out=False)
    tokens = pack(documents, tokenizer, n_rows=n_rows)
    collected = collect_activations(model, tokens, DEMO_SITE, progress=progress)
    activations = collected.outliers_clipped()
    activations.save(path)
    return activations


def held_out_tokens(tokenizer: Any, n_rows: int = 8) -> Int[Tensor, "row 128"]:
    """Rows of docstrings that no SAE of this package was trained on.

    They are those of the standard library. The bundled SAEs saw Python's manual, which
    is written separately, and ``demo_activations`` leaves out these documents.
    """
    documents = split_documents(docstrings(), held_out=True)
    return pack(documents, tokenizer, n_rows=n_rows)


def _check_model(model: Any) -> None:
    host = host_for(model)
    d_model = None
    if host.blocks:
        d_model = host.width(host.site("blocks.0.hook_resid_post"))
    sizes = (d_model, len(host.blocks), host.d_vocab)
    if sizes != _SIZES:
        raise InvalidArgument(
            "the demo's SAEs belong to the model of load_bundled(), of "
            f"{_SIZES} (d_model, layers, words); this one has {sizes}"
        )
