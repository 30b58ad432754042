"""Runs of TransformerLens models that are given texts, which it tokenises by itself."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from sae_lens_ext.hosts.base import RunListener

MaskOf = Callable[[Tensor, str], Tensor]
"""From the tokens of texts and the side they are padded on to their attention mask."""


class TextListener:
    """Passes reports on, with the mask of texts that TransformerLens pads by itself.

    It tokenises texts inside of its ``forward``. The mask that it makes is not shown to
    hooks, and for padding on the right it makes none.
    """

    def __init__(self, listener: RunListener, tokenizer: Any, mask_of: MaskOf) -> None:
        """Pass reports on to ``listener``."""
        self._listener = listener
        self._tokenizer = tokenizer
        self._mask_of = mask_of
        self._side: str | None = None

    def begin(self, tensors: Sequence[Tensor] = ()) -> None:
        """See ``RunListener.begin``."""
        self._side = None
        self._listener.begin(tensors)

    def read(self, arguments: Mapping[str, Any]) -> None:
        """See ``RunListener.read``."""
        self._side = side_of(arguments, self._tokenizer) or self._side
        if arguments.get("attention_mask") is not None:
            self._side = None
        self._listener.read(arguments)

    def keep(self, tokens: Tensor) -> None:
        """See ``RunListener.keep``."""
        if self._side is not None:
            mask = self._mask_of(tokens, self._side)
            self._listener.read({"attention_mask": mask, "input_ids": tokens})
        self._listener.keep(tokens)

    def enter(self, module: object, tensor: Tensor, *, is_running: bool) -> None:
        """See ``RunListener.enter``."""
        self._listener.enter(module, tensor, is_running=is_running)

    def made(self, output: Any) -> None:
        """See ``RunListener.made``."""
        self._listener.made(output)

    def end(self, whole: bool, output: Any = None) -> None:
        """See ``RunListener.end``."""
        self._listener.end(whole, output)


def side_of(arguments: Mapping[str, Any], tokenizer: Any) -> str | None:
    """The side on which a run pads the texts that it is given; None for no padding."""
    texts = arguments.get("input")
    is_batch = isinstance(texts, list) and len(texts) > 1
    if not is_batch or getattr(tokenizer, "pad_token_id", None) is None:
        return None
    own_side = getattr(tokenizer, "padding_side", "right")
    return arguments.get("padding_side") or own_side


def with_ids(
    arguments: Mapping[str, Any],
    to_tokens: Callable[..., Tensor] | None,
    tokenizer: Any,
    mask_of: MaskOf,
) -> dict[str, Any]:
    """The arguments of a run with its token ids, and the mask of texts it pads.

    Args:
        arguments: by name; what the model is to read is ``input``.
        to_tokens: tokenises as the model does; None if it cannot.
        tokenizer: the model's tokenizer.
        mask_of: gives the mask of padded texts.
    """
    named = dict(arguments)
    tokens = named.pop("input", None)
    if isinstance(tokens, str | list) and to_tokens is not None:
        # The options of the model's own tokenising, where they were given.
        options = {
            name: named[name]
            for name in ("prepend_bos", "padding_side")
            if named.get(name) is not None
        }
        tokens = to_tokens(tokens, **options)
        side = side_of(arguments, tokenizer)
        if side is not None and named.get("attention_mask") is None:
            named["attention_mask"] = mask_of(tokens, side)
    if isinstance(tokens, Tensor) and tokens.ndim == 1:
        tokens = tokens.unsqueeze(0)
    return {**named, "input_ids": tokens}
