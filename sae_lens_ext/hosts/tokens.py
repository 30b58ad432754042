"""Token ids from the forms in which users pass them."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts.base import Host
from sae_lens_ext.hosts.devices import input_device


def token_rows(host: Host, tokens: Any) -> Int[Tensor, "batch pos"]:
    """Token ids as an int64 tensor on the model's device.

    Args:
        host: the model that the tokens are for.
        tokens: a tensor, an array or lists of ids, ``[batch, pos]`` or ``[pos]``; or a
            text, or several texts with the same number of tokens.

    Raises:
        InvalidArgument: anything else; no row or no position; ids that the model does
            not have; or texts of different lengths (padding would be counted as text).
    """
    if isinstance(tokens, str):
        ids = _tokenized(host, [tokens])
    elif _is_texts(tokens):
        ids = _tokenized(host, tokens)
    else:
        ids = _as_tensor(tokens)
    if ids.ndim == 1:
        ids = ids.unsqueeze(0)

    _check_ids(ids, host.d_vocab)

    # A model without parameters takes tokens on any device.
    device = input_device(host.model, host.embed) or ids.device
    return ids.to(device, torch.int64)


def _is_texts(tokens: Any) -> bool:
    is_sequence = isinstance(tokens, list | tuple) and len(tokens) > 0
    return is_sequence and all(isinstance(text, str) for text in tokens)


def _tokenized(host: Host, texts: list[str] | tuple[str, ...]) -> Tensor:
    # One by one, because a tokenizer that is given all of them may pad.
    rows = [host.to_tokens(text) for text in texts]
    if len({row.shape[1] for row in rows}) > 1:
        lengths = ", ".join(str(row.shape[1]) for row in rows)
        raise InvalidArgument(
            f"the texts have different lengths ({lengths} tokens); give one at a time, "
            "or rows of one length"
        )
    return torch.cat(rows)


def _as_tensor(tokens: Any) -> Tensor:
    try:
        return torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgument(
            f"tokens must be ids [batch, pos] or text; "
            f"got an object of type {type(tokens).__name__} "
            f"({error})"
        ) from error


def _check_ids(ids: Tensor, d_vocab: int | None) -> None:
    is_integer = not ids.is_floating_point() and ids.dtype != torch.bool
    if ids.ndim != 2 or not is_integer or ids.numel() == 0:
        raise InvalidArgument(
            "tokens must be ids [batch, pos], at least one of each; got "
            f"{ids.dtype} {list(ids.shape)}"
        )

    if d_vocab is None:
        return
    lowest = int(ids.min())
    highest = int(ids.max())
    if lowest < 0 or highest >= d_vocab:
        raise InvalidArgument(
            f"token ids must be from 0 to {d_vocab - 1} for this model; they run from "
            f"{lowest} to {highest}"
        )
