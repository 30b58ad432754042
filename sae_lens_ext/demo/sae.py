"""The SAE that the demo, the notebooks and the tests share: trained once, then kept.

It reads the bundled model's residual stream after block 9 of 18. Training takes about
two minutes. Its settings are constants of this module, and the cached files are named
after their version.
"""

from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from sae_lens_ext.demo.bundled import cache_folder, load_folder, prepare_bundled
from sae_lens_ext.errors import FormatError, InvalidArgument, SaeLensExtError
from sae_lens_ext.hosts import host_for
from sae_lens_ext.objectives import HierarchicalTopK
from sae_lens_ext.sae import SAE
from sae_lens_ext.text import default_documents, pack, split_documents
from sae_lens_ext.training.activations import Activations, collect_activations
from sae_lens_ext.training.config import TrainConfig
from sae_lens_ext.training.loop import train

DEMO_SITE = "blocks.9.hook_resid_post"
# 472 rows are 60,000 tokens: a minute to collect. With them, k=32 recovers 0.965 of
# what the site's mean loses.
_N_ROWS = 472
# (d_model, layers, words) of the model.
_SIZES = (640, 18, 262_144)
_CONFIG = TrainConfig(
    d_sae=2048,
    k=32,
    objective=HierarchicalTopK(),
    epochs=5,
    batch_size=1024,
    lr=3e-3,
    decay=0.3,
    betas=(0.9, 0.999),
    apply_b_dec_to_input=True,
)
# Increased with every change of the numbers above, or of how they are used.
_VERSION = 1


def demo_sae(model: Any, *, retrain: bool = False, progress: bool = True) -> SAE:
    """The demo's HierarchicalTopK SAE for the bundled model.

    Collects activations and trains the SAE unless it is in the cache already.

    Args:
        model: what ``load_bundled()`` returned, on any library.
        retrain: whether to train it again even if it is in the cache.
        progress: whether to show progress bars.

    Raises:
        InvalidArgument: the model is another one.
    """
    _check_model(model)
    folder = _cached("saes")
    if not retrain:
        try:
            return SAE.from_pretrained(folder)
        except SaeLensExtError:
            # Not there yet, or damaged: it is trained in both cases.
            pass

    activations = demo_activations(model, progress=progress)
    trained = train(
        activations, _CONFIG, model_name="google/gemma-3-270m", progress=progress
    )
    trained.sae.save_pretrained(folder)
    return SAE.from_pretrained(folder)


def demo_activations(model: Any, *, progress: bool = True) -> Activations:
    """The activations that the demo's SAE is trained on, outliers clipped.

    They are collected once and kept (150 MB).

    Args:
        model: what ``load_bundled()`` returned, on any library.
        progress: whether to show progress bars.

    Raises:
        InvalidArgument: the model is another one.
    """
    _check_model(model)
    path = _cached("activations", ".safetensors")
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
    tokens = pack(documents, tokenizer, n_rows=_N_ROWS)
    collected = collect_activations(model, tokens, DEMO_SITE, progress=progress)
    activations = collected.outliers_clipped()
    activations.save(path)
    return activations


def held_out_tokens(tokenizer: Any, n_rows: int = 8) -> Int[Tensor, "row 128"]:
    """Rows of documents that the demo's SAE was not trained on."""
    documents = split_documents(default_documents(), held_out=True)
    return pack(documents, tokenizer, n_rows=n_rows)


def _cached(kind: str, suffix: str = "") -> Path:
    return cache_folder() / kind / f"gemma-3-270m-block-9-v{_VERSION}{suffix}"


def _check_model(model: Any) -> None:
    host = host_for(model)
    d_model = None
    if host.blocks:
        d_model = host.width(host.site("blocks.0.hook_resid_post"))
    sizes = (d_model, len(host.blocks), host.d_vocab)
    if sizes != _SIZES:
        raise InvalidArgument(
            "the demo's SAE belongs to the model of load_bundled(), of "
            f"{_SIZES} (d_model, layers, words); this one has {sizes}"
        )
