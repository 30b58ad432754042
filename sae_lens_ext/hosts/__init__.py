"""Where a model's activations can be read and replaced.

``host_for(model)`` wraps a model of any supported library in a ``Host``. Everything
above this layer is written against that protocol, once. No host library is imported
until one of its models arrives.

=========== ======================================================================
base        the protocol, and what a site is
lens        TransformerLens
nnsight     nnsight
torch       torch modules; places: from a site's name to a module
names       names of sites
model_name  what a model is called
special     which tokens are special
----------- ----------------------------------------------------------------------
batch       rows of token ids, and where in them the text is
tokens      from what users pass to such a batch; chat: from messages
padding     runs of padded batches
----------- ----------------------------------------------------------------------
watching    when a run of a torch module begins and ends
calls       what the arguments of a run say; caches: about its past
text_positions  from those facts to positions of the text
recomputation   which run a backward pass repeats
tracking    the run in progress
----------- ----------------------------------------------------------------------
partial     runs that stop early, or unembed only some positions
embedding   where the embeddings of tokens are
skipping    runs that skip the first blocks
attention   attention over long rows in memory linear in tokens
eager       compiled code is switched off while there are hooks
devices     where a model takes its tokens
=========== ======================================================================
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from sae_lens_ext._tokenizers import check_tokenizer
from sae_lens_ext.errors import UnsupportedHost
from sae_lens_ext.hosts.attention import attention_by_queries, long_rows
from sae_lens_ext.hosts.base import (
    Arguments,
    Host,
    Points,
    Site,
    SiteFunction,
    TracingHost,
)
from sae_lens_ext.hosts.batch import TokenBatch, as_batch, by_position
from sae_lens_ext.hosts.caches import CacheMemory, Seen
from sae_lens_ext.hosts.calls import CallFacts
from sae_lens_ext.hosts.eager import eager
from sae_lens_ext.hosts.embedding import embedding_site
from sae_lens_ext.hosts.hooks import evaluating, has_hooks
from sae_lens_ext.hosts.model_name import name_of_model, shown_name
from sae_lens_ext.hosts.names import spellings
from sae_lens_ext.hosts.partial import (
    capture,
    next_token_logits,
    run_to,
    unembedding_input,
)
from sae_lens_ext.hosts.skipping import RunRecord, recorded, resume, skip_blocks
from sae_lens_ext.hosts.text_positions import TextPositions, text_positions
from sae_lens_ext.hosts.tokens import token_rows
from sae_lens_ext.hosts.tracking import Pass, PassTracker
from sae_lens_ext.sae import SAE

__all__ = [
    "Arguments",
    "CacheMemory",
    "CallFacts",
    "Host",
    "Pass",
    "PassTracker",
    "Points",
    "RunRecord",
    "Seen",
    "Site",
    "SiteFunction",
    "TextPositions",
    "TokenBatch",
    "TracingHost",
    "as_batch",
    "attention_by_queries",
    "by_position",
    "capture",
    "eager",
    "embedding_site",
    "evaluating",
    "has_hooks",
    "host_for",
    "long_rows",
    "name_of_model",
    "next_token_logits",
    "recorded",
    "resume",
    "run_to",
    "shown_name",
    "skip_blocks",
    "spellings",
    "text_positions",
    "token_batch",
    "token_rows",
    "unembedding_input",
]


def host_for(model: Any) -> Host:
    """The adapter for ``model``, chosen by the library that its class comes from.

    The classes that it inherits from count too, so a user's subclass is recognised.

    Raises:
        UnsupportedHost: no adapter handles this kind of object, or it is an SAE or
            several.
    """
    candidates = model.values() if isinstance(model, Mapping) else model
    if not isinstance(model, Mapping | list | tuple):
        candidates = [model]
    if any(isinstance(candidate, SAE) for candidate in candidates):
        raise UnsupportedHost(
            "got an SAE in the place of the model: give the language model first, and "
            "then its SAE"
        )
    libraries = {cls.__module__.split(".")[0] for cls in type(model).__mro__}

    # Imported here, because each adapter loads the library it is for. Models of the
    # first two libraries are torch modules as well, so torch comes last.
    if "transformer_lens" in libraries:
        from sae_lens_ext.hosts.lens import LensHost

        return LensHost(model)
    if "nnsight" in libraries:
        from sae_lens_ext.hosts.nnsight import NNsightHost

        return NNsightHost(model)
    # Tensors come from torch too.
    if isinstance(model, nn.Module):
        from sae_lens_ext.hosts.torch import TorchHost

        return TorchHost(model)

    raise UnsupportedHost(
        f"cannot read activations of an object of type {type(model).__qualname__}; "
        "give a TransformerLens model, an nnsight model, or a torch module"
    )


def token_batch(model: Any, tokens: Any, *, tokenizer: Any = None) -> TokenBatch:
    """Rows of token ids with what is text in them, from any form of tokens.

    ::

        batch = sle.token_batch(model, ["The Eiffel Tower is in", "Rome"])
        batch.ids, batch.mask  # [batch, pos]; the mask is False at padding

        chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", ...}]
        batch = sle.token_batch(model, [chat, other_chat])
        batch.role("assistant")  # the mask of what the assistant says

    Everything that takes tokens takes these forms, and the batch, as well.

    Args:
        model: the model that the tokens are for, as in ``splice``. Texts are tokenised
            as its library does, with the special tokens that it adds.
        tokens: a text or texts, of any lengths; a chat (a list of messages ``{"role":
            ..., "content": ...}``, written by the tokenizer's chat template) or chats;
            lists of ids, of any lengths; a tensor or an array of ids, ``[batch, pos]``
            or ``[pos]``, without padding; a tokenizer's output with ``input_ids`` and
            ``attention_mask``, padded on either side; or a ``TokenBatch``.
        tokenizer: for a model that has none, as a plain torch module.

    Raises:
        InvalidArgument: anything else; no row, or a row without text; text interrupted
            by padding; ids that the model does not have; text or messages that cannot
            be tokenised.
        ShapeMismatch: ids and mask of a tokenizer's output do not fit together.
        UnsupportedHost: no adapter knows the model.
    """
    host = host_for(model)
    if tokenizer is not None:
        check_tokenizer(tokenizer, "__call__")
        if host.tokenizer is None:
            host = _with_tokenizer(host, tokenizer)
    return token_rows(host, tokens)


def _with_tokenizer(host: Host, tokenizer: Any) -> Host:
    """A host of the same model with a tokenizer."""
    from sae_lens_ext.hosts.torch import TorchHost

    module = getattr(host.model, "_module", host.model)
    return TorchHost(module, tokenizer)
