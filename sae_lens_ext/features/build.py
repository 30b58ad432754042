"""Make the index of the features at a site, and go on where that was interrupted.

1. Take the lock of the folder; compare the settings with those of what is there.
2. Go on from the checkpoint, if there is one.
3. Run the model on the text, encode, and take what is among the best of each feature.
   Every minute, and before an interruption, replace the checkpoint: a process that is
   killed loses what came after.
4. At the end of the text: what each feature writes, and the files of the index.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext._tokenizers import check_tokenizer
from sae_lens_ext.errors import InvalidArgument, NonFinite
from sae_lens_ext.features.counts import levels_up_to
from sae_lens_ext.features.feature_index import FeatureIndex
from sae_lens_ext.features.folder import (
    Progress,
    delete_unfinished,
    is_complete,
    read_checkpoint,
    write_checkpoint,
    write_index,
)
from sae_lens_ext.features.labels import Labels, labels_of
from sae_lens_ext.features.logit_effects import direct_ids, logit_effects
from sae_lens_ext.features.neighbours import nearest_features
from sae_lens_ext.features.reader import Reader
from sae_lens_ext.features.state import IndexState, Sizes
from sae_lens_ext.features.token_strings import token_strings
from sae_lens_ext.formats.paths import checked_path
from sae_lens_ext.hosts import name_of_model
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import SAEs
from sae_lens_ext.training.interruption import Interruption
from sae_lens_ext.training.stream.cache.lock import writing

# Between two checkpoints.
_SECONDS_BETWEEN = 60.0
_N_NEIGHBOURS = 8
_N_LOGITS = 10


class _Text(NamedTuple):
    """What the text says of the features."""

    n_rows: int
    n_tokens: int
    tensors: dict[str, Tensor]


def index(
    model: Any,
    sae: SAEs,
    documents: Any,
    folder: str | Path,
    *,
    k: int | None = None,
    extrapolate: bool = False,
    n_tokens: int | None = None,
    positions: Positions = None,
    contexts: int = 16,
    sample: int = 40,
    window: int = 16,
    batch_size: int = 8,
    tokenizer: Any = None,
    model_name: str | None = None,
    labels: Labels = None,
    progress: bool = True,
) -> FeatureIndex:
    """Index the features of an SAE on a text: where each is active, and what it writes.

    ::

        rows = TextRows("my_texts", model.tokenizer, context=128)
        index = sle.features.index(model, sae, rows, "my_index", n_tokens=1_000_000)
        index.page(981)

    For every feature, the index holds its strongest contexts (one of each row at most)
    and a uniform sample of its activations, with the tokens around; how often it is
    active, how strongly, and at which k; the tokens that its decoder row promotes and
    suppresses; and the features that write nearly the same. Memory does not grow with
    the text. The model runs no further than to the site, as it stands: activations are
    those of a splice, outliers included.

    Called again with the same arguments, it goes on where it was interrupted, or
    returns what is there. The files are the same as without the interruption (on a CPU,
    bit for bit).

    Args:
        model: as in ``splice``.
        sae: one SAE that knows its site, or a mapping from the site's name to it.
        documents: a ``TextRows``; tokens in any form that ``token_batch`` takes, such
            as a list of texts, of which each is a row; or another iterable of such
            tokens. Read once, in their order.
        folder: a new folder, or one that this function wrote.
        k: features per token, as in ``SAE.encode``.
        extrapolate: whether k may exceed what the SAE was trained at.
        n_tokens: the index ends with the batch of rows that reaches it; None reads all
            of the text.
        positions: the tokens to encode, as in ``splice``: by default all but the
            special tokens that the SAE was not trained on.
        contexts: strongest contexts of each feature.
        sample: activations of each feature in the uniform sample, from which the
            contexts of its quantiles are taken.
        window: tokens on either side of an activation.
        batch_size: rows per forward pass.
        tokenizer: for a model that has none, so that pages show words. Texts that are
            not token ids yet need the model's own.
        model_name: name of the model; by default what its config says.
        labels: as in ``FeatureIndex.labelled``.
        progress: whether to show a progress bar.

    Raises:
        UnknownSite, ShapeMismatch, InvalidK: as in ``splice``.
        InvalidArgument: an invalid option; a folder of something else, or of an index
            with other settings (the error lists them); another process writes there; or
            no token of the text is encoded.
        NonFinite: the model produced NaN or infinity, and the error names the site; or
            the SAE's decoder holds them.
        FormatError: what is in the folder is damaged.
    """
    folder = checked_path(folder, "folder")
    # Read now, and not after hours of text.
    texts = labels_of(labels)
    if tokenizer is not None:
        check_tokenizer(tokenizer, "decode")
    sizes = Sizes(
        arguments.positive_int(contexts, "contexts"),
        arguments.positive_int(sample, "sample"),
        arguments.integer(window, "window", at_least=0),
    )
    if model_name is not None:
        model_name = arguments.string(model_name, "model_name")
    if n_tokens is not None:
        n_tokens = arguments.positive_int(n_tokens, "n_tokens")
    reader = Reader(
        model,
        sae,
        documents,
        k=k,
        extrapolate=arguments.flag(extrapolate, "extrapolate"),
        positions=positions,
        batch_size=arguments.positive_int(batch_size, "batch_size"),
    )
    if not bool(torch.isfinite(reader.sae.W_dec).all()):
        raise NonFinite(
            "the decoder of the SAE holds NaN or infinity, so it has no nearest "
            "features and promotes no tokens; load it again"
        )
    # As they are read from a file, to be compared with one.
    facts = {**reader.facts, "n_tokens": n_tokens, **sizes._asdict()}
    settings = json.loads(json.dumps(facts))

    if folder.is_dir():
        # Before the lock, which would be left in a folder of something else.
        is_complete(folder, settings)
    with writing(folder):
        delete_unfinished(folder)
        if not is_complete(folder, settings):
            text = _read_text(reader, folder, settings, sizes, n_tokens, progress)
            _finish(reader, folder, settings, text, tokenizer, model_name, progress)
    return FeatureIndex.open(folder, model, sae, labels=texts, tokenizer=tokenizer)


def _read_text(
    reader: Reader,
    folder: Path,
    settings: Mapping[str, Any],
    sizes: Sizes,
    n_tokens: int | None,
    progress: bool,
) -> _Text:
    """Read the text from its beginning, or from where the checkpoint is."""
    config = reader.sae.config
    largest_k = config.d_sae if reader.k is None else reader.k
    device = reader.sae.W_enc.device
    state = IndexState(config.d_sae, largest_k, sizes, device)
    checkpoint = read_checkpoint(folder, settings)
    if checkpoint is None:
        reader.start()
    else:
        before, tensors = checkpoint
        state.restore(tensors, n_rows=before.n_rows, n_tokens=before.n_tokens)
        reader.restore(before.source)

    tqdm = require("tqdm.auto", "Showing progress").tqdm
    bar = tqdm(
        total=n_tokens if n_tokens is not None else reader.n_tokens,
        initial=state.n_tokens,
        desc="features",
        unit="token",
        unit_scale=True,
        disable=not progress,
    )
    last = time.monotonic()
    with bar, torch.no_grad(), Interruption() as interruption:
        while n_tokens is None or state.n_tokens < n_tokens:
            step = reader.next_batch()
            if step is None:
                # Tokens that do not count were never added.
                bar.total = bar.n
                bar.refresh()
                break
            n_before = state.n_tokens
            code, batch = step
            state.add(code, batch)
            bar.update(state.n_tokens - n_before)

            is_late = time.monotonic() - last >= _SECONDS_BETWEEN
            if is_late or interruption.signal is not None:
                at = Progress(reader.state(), state.n_rows, state.n_tokens)
                write_checkpoint(folder, settings, at, state.tensors())
                last = time.monotonic()
            if interruption.signal is not None:
                break
    interruption.deliver()
    if not state.n_tokens:
        raise InvalidArgument(
            "there is nothing to index: no token of the text is encoded (positions= "
            "and the SAE's config say which are), or there is no text"
        )
    # What follows takes a while, too.
    tensors = state.tensors()
    at = Progress(reader.state(), state.n_rows, state.n_tokens)
    write_checkpoint(folder, settings, at, tensors)
    # The state, which is as large again, ends here.
    return _Text(state.n_rows, state.n_tokens, tensors)


def _finish(
    reader: Reader,
    folder: Path,
    settings: Mapping[str, Any],
    text: _Text,
    tokenizer: Any,
    model_name: str | None,
    progress: bool,
) -> None:
    """Write the index of what was read."""
    sae = reader.sae
    tensors = text.tensors
    effects = logit_effects(reader.host, reader.place, _N_LOGITS, progress=progress)
    numbers, cosines = nearest_features(sae.W_dec, _N_NEIGHBOURS)
    tensors |= {"nearest.features": numbers, "nearest.cosines": cosines}
    tensors |= effects.tensors

    ids = _ids_of(tensors, direct_ids(effects))
    if tokenizer is None:
        tokenizer = reader.host.tokenizer
    largest_k = sae.config.d_sae if reader.k is None else reader.k
    about = {
        "settings": settings,
        "site": reader.place.site.name,
        "model_name": model_name or name_of_model(reader.host.model),
        "n_tokens": text.n_tokens,
        "n_rows": text.n_rows,
        "levels": levels_up_to(largest_k),
        "logit_note": effects.note,
    }
    write_index(folder, about, tensors, token_strings(tokenizer, ids))


def _ids_of(tensors: Mapping[str, Tensor], others: Tensor) -> list[int]:
    """The ids of all tokens in contexts, and others."""
    parts = [tensors[f"{name}.ids"].unique() for name in ("top", "sample")]
    ids = torch.cat([*parts, others]).unique().tolist()
    return [number for number in ids if number >= 0]
