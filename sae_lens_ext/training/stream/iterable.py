"""Activations that people bring, piece by piece."""

from collections.abc import Sequence
from typing import Any

import torch

from sae_lens_ext.training.collecting import site_names
from sae_lens_ext.training.stream.ahead import Ahead
from sae_lens_ext.training.stream.buffered import BufferedStream
from sae_lens_ext.training.stream.chunks import IterableChunks
from sae_lens_ext.training.stream.length import Length
from sae_lens_ext.training.stream.options import checked_dtype


class IterableStream(BufferedStream):
    """Activations that come from an iterable, shuffled and cleaned as of a model.

    ::

        def activations():
            for path in paths:
                yield torch.load(path)  # [token, d_model]

        stream = IterableStream(activations, "blocks.5.hook_resid_post")

    See ``ModelStream`` for the buffer, outliers and constants. A stream that is
    restored reads what was read before again, and skips it, unless the iterable has
    ``state_dict`` and ``load_state_dict``. It notices if the last piece it skips is not
    the one that was read.
    """

    def __init__(
        self,
        chunks: Any,
        sites: Sequence[str] | str,
        *,
        dtype: torch.dtype | str | None = None,
        buffer_tokens: int = 1 << 16,
        seed: int = 0,
        epochs: int | None = None,
        n_tokens: int | None = None,
        model_name: str | None = None,
        excludes_special_tokens: bool = False,
    ) -> None:
        """Nothing is read yet.

        Args:
            chunks: an iterable of tensors ``[token, d]``, or of mappings from the name
                of a site to such a tensor; or a function that returns one, which can be
                read again and again.
            sites: one or several names of sites.
            dtype: to cast activations to, float32 or bfloat16; None keeps theirs.
            buffer_tokens: as in ``ModelStream``.
            seed: the seed of the order.
            epochs: as in ``ModelStream``.
            n_tokens: as in ``ModelStream``.
            model_name: name of the model they come from.
            excludes_special_tokens: whether special tokens were left out of them.

        Raises:
            InvalidArgument: an invalid option.
        """
        names = site_names(sites)
        storage_dtype = None if dtype is None else checked_dtype(dtype)
        self._source = IterableChunks(chunks, names, storage_dtype)
        super().__init__(
            Ahead(self._source, None, overlap=False),
            names,
            buffer_tokens=buffer_tokens,
            seed=seed,
            length=Length.checked(epochs, n_tokens),
            model_name=model_name,
            excludes_special_tokens=excludes_special_tokens,
        )

    def width(self, site: str) -> int:
        """See ``ActivationStream.width``: what can be read once is not read by this."""
        self._check_site(site)
        return super().width(site) if self._is_started else self._source.width(site)
