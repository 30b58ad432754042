"""Checks of the arguments of the model's forward pass.

``torch.compile`` traces them with the rest of the pass.
"""

from typing import Any

import torch
from torch import Tensor

from sae_lens_ext._arguments import as_integer
from sae_lens_ext.based.cache import BasedCache
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.kernels import holds_numbers

# Arguments that transformers and TransformerLens pass to every model. This one counts
# tokens itself and returns no attentions.
_IGNORED = (
    "cache_position",
    "num_items_in_batch",
    "output_attentions",
    "position_ids",
)


def check_options(options: dict[str, Any]) -> None:
    """Check that the remaining keyword arguments are known."""
    unknown = [
        name
        for name, value in options.items()
        if value is not None and name not in _IGNORED
    ]
    if unknown:
        raise InvalidArgument(
            f"this model has no argument {', '.join(unknown)}; see "
            "BasedForCausalLM.forward for its arguments"
        )
    if options.get("output_attentions"):
        raise InvalidArgument(
            "this model returns no attentions; read them with hooks on the mixers' "
            "hook_pattern"
        )


def check_tokens(input_ids: object, inputs_embeds: object) -> Tensor:
    """Return tokens [batch, pos], or else embeddings [batch, pos, d_model]."""
    if (input_ids is None) == (inputs_embeds is None):
        raise InvalidArgument("give either input_ids or inputs_embeds")

    are_ids = inputs_embeds is None
    tokens = input_ids if are_ids else inputs_embeds
    if not isinstance(tokens, Tensor):
        raise InvalidArgument(_wrong_kind(f"an object of type {type(tokens).__name__}"))
    if are_ids and tokens.dtype not in (torch.int64, torch.int32):
        raise InvalidArgument(_wrong_kind(str(tokens.dtype)))
    if tokens.ndim != (2 if are_ids else 3) or not tokens.shape[1]:
        raise InvalidArgument(
            "input_ids must be [batch, pos] (inputs_embeds [batch, pos, d_model]), "
            f"with at least one token each; got {list(tokens.shape)}; for one text "
            "give text[None]"
        )
    return tokens


def check_cache(cache: object, n_layers: int, n_texts: int) -> None:
    """Check that a cache is of a model with ``n_layers``, and of ``n_texts`` texts."""
    if not isinstance(cache, BasedCache) or len(cache.layers) != n_layers:
        raise InvalidArgument(
            "past_key_values must be the BasedCache that this model returned; got a "
            f"{type(cache).__name__} of another model"
        )
    n_cached = cache.n_texts()
    if n_cached is not None and n_cached != n_texts:
        raise InvalidArgument(
            f"the cache holds {n_cached} texts; got tokens of {n_texts} texts"
        )


def check_attention_mask(
    mask: object,
    batch: int,
    pos: int,
    seen: int,
) -> None:
    """Check that a mask leaves out tokens only at the end.

    Padding at the end changes nothing before it; anywhere else the model would remember
    it as text. A mask that has a shape and no numbers, as in nnsight's scan, is checked
    for its shape alone.

    Args:
        mask: [batch, pos] or [batch, seen + pos], 1 for text and 0 for padding.
        batch: rows of tokens.
        pos: tokens per row.
        seen: tokens per row before them, which are in the cache.
    """
    if not isinstance(mask, Tensor):
        raise InvalidArgument(
            f"attention_mask must be a tensor; "
            f"got an object of type {type(mask).__name__}"
        )
    if mask.shape not in ((batch, pos), (batch, seen + pos)):
        with_cache = f" or {[batch, seen + pos]}" if seen else ""
        raise InvalidArgument(
            f"attention_mask must be [batch, pos], {[batch, pos]}{with_cache}; got "
            f"{list(mask.shape)}"
        )

    # One tensor for both answers, because on a GPU each read waits for the device.
    is_other = ((mask != 0) & (mask != 1)).any()
    has_early_padding = (mask.long().diff(dim=1) > 0).any()
    answers = torch.stack([is_other, has_early_padding])
    if not _is_readable(answers):
        return
    is_other, has_early_padding = answers.tolist()
    if is_other:
        raise InvalidArgument(
            "attention_mask must be 1 for text and 0 for padding; it holds other "
            "numbers"
        )
    if has_early_padding:
        raise InvalidArgument(
            "a recurrent model cannot skip padding before a token: pad on the right "
            "for one forward pass, or give prompts of one length to generate"
        )


def check_position_ids(
    positions: object,
    mask: Tensor | None,
    hidden: Tensor,
    seen: int,
) -> None:
    """Check that ``position_ids`` count the tokens of the text from 0.

    Positions of padding, which comes after the text, are not compared. Of tensors that
    have a shape and no numbers, the shape alone is checked.

    Args:
        positions: [batch, pos], [1, pos] or [pos].
        mask: as ``check_attention_mask`` accepts it.
        hidden: [batch, pos, d_model], the embedded tokens.
        seen: tokens per row before them, which are in the cache.
    """
    batch, pos = hidden.shape[:2]
    stop = seen + pos
    shapes = ((batch, pos), (1, pos), (pos,))
    is_valid = False
    if isinstance(positions, Tensor) and positions.shape in shapes:
        if not _is_readable(positions, hidden):
            return
        expected = torch.arange(seen, stop, device=hidden.device).expand(batch, pos)
        differs = positions.to(expected.device) != expected
        if mask is not None:
            differs = differs & (mask[:, -pos:].to(expected.device) != 0)
        is_valid = not bool(differs.any())
    if not is_valid:
        raise InvalidArgument(
            f"this model counts positions itself, here from {seen} to {stop - 1} for "
            "every text, and accepts no other position_ids; leave them out"
        )


def positions_to_keep(logits_to_keep: object) -> slice | Tensor:
    """The positions that get logits: the last few, all, or those that a tensor names.

    Raises:
        InvalidArgument: neither a non-negative integer nor a tensor [n] of integers.
    """
    if (
        isinstance(logits_to_keep, Tensor)
        and logits_to_keep.ndim == 1
        and not logits_to_keep.is_floating_point()
    ):
        return logits_to_keep
    number = as_integer(logits_to_keep)
    if number is None or number < 0:
        raise InvalidArgument(
            "logits_to_keep must be a non-negative integer, how many of the last "
            "positions get logits, 0 for all, or a tensor [n] of positions; got "
            f"{logits_to_keep!r}"
        )
    return slice(-number, None)


def select_positions(hidden: Tensor, positions: slice | Tensor) -> Tensor:
    """Select positions of [batch, pos, d_model].

    Raises:
        InvalidArgument: a position that is not in the text.
    """
    try:
        return hidden[:, positions]
    except IndexError as error:
        raise InvalidArgument(
            "logits_to_keep must name positions of the text, of which there are "
            f"{hidden.shape[1]}: {error}"
        ) from error


def _is_readable(*tensors: Tensor) -> bool:
    """Whether the numbers of tensors can be read, if need be outside of a graph."""
    # torch.compile leaves the graph to read a number; a compiled model checks them too.
    return torch.compiler.is_compiling() or all(map(holds_numbers, tensors))


def _wrong_kind(kind: str) -> str:
    return (
        "input_ids must be a tensor of integers, int64 or int32, and inputs_embeds a "
        f"tensor; got {kind}"
    )
