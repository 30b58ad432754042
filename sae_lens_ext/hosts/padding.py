"""Runs of padded batches, with the padding where a causal model does not see it."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.errors import UnsupportedHost
from sae_lens_ext.hosts.batch import TokenBatch, as_batch
from sae_lens_ext.hosts.tracking import own_run


def run_right_padded(
    run: Callable[..., Any],
    tokens: TokenBatch | Int[Tensor, "batch pos"],
    *,
    takes_mask: bool,
) -> Float[Tensor, "batch unembedded d_vocab"]:
    """The logits of a batch, in its columns where there is a row for each of them.

    Args:
        run: calls the model with ids, and with ``attention_mask=`` where the batch is
            padded.
        tokens: the batch.
        takes_mask: whether the model has an argument ``attention_mask``. Without one,
            padding on the right is still invisible to a causal model.
    """
    batch = as_batch(tokens)
    # Columns that no row needs stay, because activations of such a width may be known.
    right = batch if batch.is_right_padded else batch.right_padded()
    options = {}
    if takes_mask and right.is_padded:
        options["attention_mask"] = right.mask.long()

    with own_run(right):
        logits = run(right.ids, **options)
    # A hook may have selected some of the positions, which have no columns.
    if right is batch or logits.shape[1] != right.shape[1]:
        return logits
    return batch.in_columns(logits)


def check_decoder_only(config: Any) -> None:
    """Check that a run of the model needs nothing but tokens.

    Raises:
        UnsupportedHost: it has an encoder as well.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedHost(
            f"a {getattr(config, 'model_type', 'model')} has an encoder and a decoder, "
            "which read different tokens, and runs of it are not known here; give a "
            "language model that reads one text"
        )
