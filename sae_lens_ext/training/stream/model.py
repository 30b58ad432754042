"""Activations from a model, as it reads a text."""

from collections.abc import Sequence
from typing import Any

import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.hosts import Host, name_of_model
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.training.collecting import Collector
from sae_lens_ext.training.stream.ahead import Ahead
from sae_lens_ext.training.stream.buffered import BufferedStream
from sae_lens_ext.training.stream.chunks import ModelChunks
from sae_lens_ext.training.stream.fingerprint import model_facts
from sae_lens_ext.training.stream.length import Length
from sae_lens_ext.training.stream.options import checked_dtype
from sae_lens_ext.training.stream.rows import row_source
from sae_lens_ext.training.stream.shared import Processes, shared


class ModelStream(BufferedStream):
    """Activations of one or several sites, as the model reads a text.

    ::

        rows = TextRows("my_texts", tokenizer, context=128)
        stream = ModelStream(model, rows, "blocks.5.hook_resid_post")
        stream.next_batch(2048)["blocks.5.hook_resid_post"]  # [2048, d_model]

    The model runs no further than to its last site, once for all of them. Special
    tokens are left out as in ``collect_activations``, and padding always. Tokens whose
    norm exceeds 6 times the median are shrunk to that norm
    (``Activations.outliers_clipped`` says why). The median, mean and scale are those of
    the first ``buffer_tokens`` tokens, which are given like all others.

    Tokens are taken at random from a buffer that is at least half full until the end of
    a pass. The same arguments give the same batches, bit for bit on a CPU, and so does
    a stream that was restored.
    """

    def __init__(
        self,
        model: Any,
        tokens: Any,
        sites: Sequence[str] | str,
        *,
        positions: Positions = None,
        batch_size: int = 8,
        dtype: torch.dtype | str = torch.float32,
        buffer_tokens: int = 1 << 16,
        seed: int = 0,
        epochs: int | None = None,
        n_tokens: int | None = None,
        model_name: str | None = None,
        overlap: bool | None = None,
    ) -> None:
        """Find the sites and the text; nothing runs yet.

        Args:
            model: as in ``splice``.
            tokens: a ``TextRows``; tokens in any form that ``token_batch`` takes, which
                are read in another order in every pass; or another iterable of such
                tokens, such as a ``DataLoader``.
            sites: one or several names of sites.
            positions: the tokens to give instead of all that are not special, as in
                ``splice``.
            batch_size: rows per forward pass.
            dtype: of the activations, float32 or bfloat16.
            buffer_tokens: tokens that wait in the buffer; at least twice those of a
                forward pass.
            seed: the seed of the order.
            epochs: passes over the text. By default one; or, where ``n_tokens`` is
                given, as many as that takes.
            n_tokens: tokens after which the stream ends.
            model_name: name of the model; by default what its config says.
            overlap: whether a thread runs the model ahead while batches are used; by
                default if the model is on a GPU. The model must not be used for
                anything else meanwhile: see ``pause``.

        Raises:
            UnknownSite: the model has no such site.
            InvalidArgument: an invalid option or form of tokens.
        """
        batch_size = arguments.positive_int(batch_size, "batch_size")
        storage_dtype = checked_dtype(dtype)
        seed = arguments.integer(seed, "seed", at_least=0)
        collector = Collector(model, sites, positions)
        chunks = model_chunks(
            collector,
            tokens,
            batch_size=batch_size,
            dtype=storage_dtype,
            seed=seed,
            positions=positions,
            overlap=overlap,
        )
        super().__init__(
            chunks,
            collector.sites,
            buffer_tokens=buffer_tokens,
            seed=seed,
            length=Length.checked(epochs, n_tokens),
            model_name=model_name or name_of_model(model),
            excludes_special_tokens=collector.excludes_special_tokens,
        )
        self._collector = collector
        self._alone = chunks

    def share(self, processes: Processes | None) -> None:
        """Run the model together with other processes, each on a part of the text.

        ``train`` calls it where several processes share a training. The batches stay
        the same, and all processes have all of them.

        Args:
            processes: who shares the work; None for this process alone again.
        """
        chunks = self._alone
        if self._chunks is not chunks:
            self._chunks.close()
        self._use(chunks if processes is None else shared(chunks, processes))

    def width(self, site: str) -> int:
        """See ``ActivationStream.width``; the model runs only if it does not say."""
        self._check_site(site)
        return self._collector.width(site) or super().width(site)


def model_chunks(
    collector: Collector,
    tokens: Any,
    *,
    batch_size: int,
    dtype: torch.dtype,
    seed: int | None,
    positions: Positions,
    overlap: bool | None,
) -> Ahead:
    """What a model computes, made ahead in a thread if there is something to overlap.

    Args: as in ``ModelStream``; ``seed`` is that of the order of rows in memory, and
    None keeps it.
    """
    rows = row_source(tokens, collector, seed)
    device = device_of(collector.host)
    if overlap is None:
        overlap = device is not None and device.type == "cuda"
    facts = {
        "model": model_facts(collector.host),
        "text": rows.facts,
        "positions": repr(positions),
        "batch_size": batch_size,
        "dtype": str(dtype).removeprefix("torch."),
    }
    chunks = ModelChunks(collector, rows, batch_size, dtype, facts)
    return Ahead(chunks, device, overlap=arguments.flag(overlap, "overlap"))


def device_of(host: Host) -> torch.device | None:
    """Where a model computes; None where its parameters do not tell."""
    for parameter in host.model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    return None
