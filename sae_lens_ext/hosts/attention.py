"""Attention over long rows in memory linear in tokens.

Eager attention of a Hugging Face model holds several tensors ``[batch, head, pos,
pos]`` in every layer, for a backward pass all of them at once. But the rows of these
tensors, one for each query, do not depend on each other. So the model's own attention
function is called for some queries at a time, with their rows of the mask, and a
backward pass calls it again: what is held is linear in the number of tokens.

Source: Rabe & Staats 2021 (attention in memory linear in tokens, by chunks that a
    backward pass computes again).
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import handle_torch_function, has_torch_function

from sae_lens_ext._optional import require
from sae_lens_ext.hosts.base import Host
from sae_lens_ext.hosts.batch import TokenBatch
from sae_lens_ext.hosts.torch import TorchHost

LONG = 1024
"""Rows of more tokens have attention by some queries at a time."""

# The queries of one call. Fewer take less memory and more time.
_QUERIES = 256
# How Hugging Face implementations by some queries at a time are called.
_PREFIX = "sae_lens_ext_"

OfQueries = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Attention of some queries, the first of which has this number."""


@contextmanager
def long_rows(host: Host, tokens: TokenBatch) -> Iterator[None]:
    """While active, runs of long rows take memory linear in tokens, where they can.

    That is the attention of Hugging Face models which are loaded as ``"eager"``, or as
    ``"sdpa"`` where a mask ``[pos, pos]`` is needed. Logits are the same but for
    rounding; attention weights are not returned. Other models, and short rows, run as
    they are.

    Args:
        host: the model, as ``Host.plain`` gives it.
        tokens: the rows of the runs.
    """
    model = _model_with_masks(host, tokens)
    if model is None:
        yield
        return

    implementation = model.config._attn_implementation
    model.set_attn_implementation(_registered(implementation))
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def attention_by_queries(
    attention: Callable[..., tuple[Tensor, Any]],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
) -> Tensor:
    """Attention of some queries after the other; a backward pass computes it again.

    Modes of torch see it as one function of queries, keys and values, and these alone
    have gradients: weights that take part in attention do not.

    Args:
        attention: of some queries: takes them, keys, values and their part of the mask;
            returns ``[batch, queries, head, d_head]`` and anything.
        query: ``[batch, head, queries, d_head]``.
        key: ``[batch, head, keys, d_head]``; there may be fewer heads.
        value: same as the keys.
        mask: a ``LazyMask``, a tensor ``[batch, head, queries, keys]``, or None.
    """
    if has_torch_function((query, key, value)):
        return handle_torch_function(
            attention_by_queries,
            (query, key, value),
            attention,
            query,
            key,
            value,
            mask,
        )

    def of_queries(part: Tensor, key: Tensor, value: Tensor, start: int) -> Tensor:
        rows = _rows(mask, start, start + part.shape[2])
        output, _ = attention(part, key, value, rows)
        return output

    return _ByQueries.apply(of_queries, query, key, value)


class _ByQueries(torch.autograd.Function):
    """Some queries after the other, forward and backward.

    Results of all queries go into one tensor, as soon as they are there. Kept apart,
    they would lie in the space that the large tensors of their queries have left, which
    the next queries could then not use: memory would grow with the square of the length
    although none of it is in use.
    """

    @staticmethod
    def forward(
        ctx: Any, of_queries: OfQueries, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        ctx.of_queries = of_queries
        ctx.save_for_backward(query, key, value)
        device = query.device.type
        ctx.autocast = {
            "device_type": device,
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
        }

        output = query.new_empty(0)
        for start, stop in _parts(query):
            part = of_queries(query[:, :, start:stop], key, value, start)
            if start == 0:
                output = part.new_empty(len(part), query.shape[2], *part.shape[2:])
            output[:, start:stop] = part
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        is_needed = ctx.needs_input_grad[1:]
        totals = [torch.zeros_like(x) for x in inputs]
        for start, stop in _parts(inputs[0]):
            query, *others = inputs
            leaves = [
                x.detach().requires_grad_(needed)
                for x, needed in zip(
                    (query[:, :, start:stop], *others), is_needed, strict=True
                )
            ]
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                part = ctx.of_queries(*leaves, start)
            by_leaf = torch.autograd.grad(
                part,
                [leaf for leaf in leaves if leaf.requires_grad],
                gradient[:, start:stop],
                materialize_grads=True,
            )

            of_query, *of_others = totals
            places = (of_query[:, :, start:stop], *of_others)
            for place, by_one in zip(compress(places, is_needed), by_leaf, strict=True):
                place += by_one
        results = zip(totals, is_needed, strict=True)
        return None, *(total if needed else None for total, needed in results)


def _parts(query: Tensor) -> Iterator[tuple[int, int]]:
    """Where the queries of every call begin and end."""
    n_queries = query.shape[2]
    for start in range(0, n_queries, _QUERIES):
        yield start, min(start + _QUERIES, n_queries)


@dataclass(frozen=True)
class LazyMask:
    """A mask whose rows are made when they are needed.

    Attributes:
        make: what makes a mask of the implementation that is called.
        options: its arguments for the whole mask.
    """

    make: Callable[..., Tensor | None]
    options: dict[str, Any]

    def rows(self, start: int, stop: int) -> Tensor | None:
        """The rows of some queries."""
        options = {
            **self.options,
            "q_length": stop - start,
            "q_offset": self.options.get("q_offset", 0) + start,
            # The implementation would take these queries to be the first ones.
            "allow_is_causal_skip": False,
        }
        return self.make(**options)


def _rows(mask: Any, start: int, stop: int) -> Tensor | None:
    if isinstance(mask, LazyMask):
        return mask.rows(start, stop)
    # A mask of one row is of every query.
    if mask is None or mask.shape[-2] == 1:
        return mask
    return mask[..., start:stop, :]


def _model_with_masks(host: Host, tokens: TokenBatch) -> Any:
    """The Hugging Face model whose runs of these rows would hold ``[pos, pos]``."""
    if tokens.shape[1] <= LONG or not isinstance(host, TorchHost):
        return None
    for module in host.chain:
        config = getattr(module, "config", None)
        implementation = getattr(config, "_attn_implementation", None)
        is_known = {
            "eager": _eager_function(module) is not None,
            "sdpa": _has_mask(config, tokens),
        }
        if is_known.get(str(implementation)) and hasattr(
            module, "set_attn_implementation"
        ):
            return module
    return None


def _has_mask(config: Any, tokens: TokenBatch) -> bool:
    """Whether more than a flag says which keys a query sees."""
    window = getattr(config, "sliding_window", None)
    return tokens.is_padded or (window is not None and window < tokens.shape[1])


def _registered(implementation: str) -> str:
    """The name of an implementation by some queries at a time."""
    transformers = require("transformers", "Attention over long rows")
    name = f"{_PREFIX}{implementation}"
    functions = transformers.AttentionInterface()
    if name in functions:
        return name

    make_mask = transformers.AttentionMaskInterface()[implementation]

    def lazy_mask(**options: Any) -> LazyMask:
        return LazyMask(make_mask, options)

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        **options: Any,
    ) -> tuple[Tensor, None]:
        # Eager attention is not among the functions that all models share.
        own = functions.get(implementation) or _eager_function(module)
        assert own is not None

        def of_queries(
            query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
        ) -> tuple[Tensor, Any]:
            return own(module, query, key, value, mask, **options)

        output = attention_by_queries(of_queries, query, key, value, attention_mask)
        return output, None

    transformers.AttentionInterface.register(name, attention)
    transformers.AttentionMaskInterface.register(name, lazy_mask)
    return name


def _eager_function(module: nn.Module) -> Callable[..., tuple[Tensor, Any]] | None:
    """The eager attention of a module: a function of the file that its class is from.

    None where there is none. A user's subclass is of another file than its class.
    """
    files = [sys.modules.get(cls.__module__) for cls in type(module).__mro__]
    functions = (getattr(file, "eager_attention_forward", None) for file in files)
    return next(filter(None, functions), None)
