"""Batches of tokens from the forms in which users pass them."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.hosts.base import Host
from sae_lens_ext.hosts.batch import TokenBatch
from sae_lens_ext.hosts.chat import Chat, is_chat, tokenized_chat
from sae_lens_ext.hosts.devices import input_device
from sae_lens_ext.hosts.position_table import position_limit
from sae_lens_ext.text.decoding import without_surrogates

_FORMS = "ids [batch, pos], messages of a chat, or text"
# What a tokenizer may say beside the ids and their mask. None of it is read by a model,
# but for types of tokens, which models of one kind of token do not tell apart.
_SILENT = {
    "labels",
    "length",
    "num_truncated_tokens",
    "offset_mapping",
    "overflow_to_sample_mapping",
    "overflowing_tokens",
    "special_tokens_mask",
}
_KINDS_OF_TEXT = ("O", "T", "U")
_TYPES = {"token_type_ids", "mm_token_type_ids"}


def token_rows(host: Host, tokens: Any) -> TokenBatch:
    """A batch of tokens on the model's device.

    Args:
        host: the model that the tokens are for.
        tokens: a tensor or an array of ids, ``[batch, pos]`` or ``[pos]``; lists of
            ids, of any lengths; a text or texts, of any lengths, also as an array or a
            column of a DataFrame; a chat (a list of
            messages) or chats; a tokenizer's output, padded on either side; or a
            ``TokenBatch``.

    Raises:
        InvalidArgument: anything else; no row, or a row without text; ids that the
            model does not have; text or messages that the model cannot tokenise.
        ShapeMismatch: ids and mask of a tokenizer's output do not fit together, or
            rows are longer than the model's table of positions.
    """
    batch = _batch(host, tokens)
    # What stands at padding is of no meaning, but the model looks it up.
    ids = batch.ids.long().where(batch.mask, host.padding_id())
    batch = TokenBatch(ids, batch.mask, batch.roles)
    _check_ids(batch, host.d_vocab)
    _check_length(batch, host)

    # A model without parameters takes tokens on any device.
    device = input_device(host.model, host.embed) or ids.device
    return batch.to(device)


def _batch(host: Host, tokens: Any) -> TokenBatch:
    if isinstance(tokens, TokenBatch):
        return tokens
    # Arrays of texts, and columns of a DataFrame.
    if getattr(getattr(tokens, "dtype", None), "kind", None) in _KINDS_OF_TEXT:
        tokens = tokens.tolist()
    if isinstance(tokens, str) or is_chat(tokens):
        return _of_texts(host, [tokens])
    if isinstance(tokens, Mapping):
        return _of_encoding(host, tokens)
    if _is_list_of(tokens, _is_text):
        return _of_texts(host, tokens)
    if _is_list_of(tokens, _is_ids):
        return _of_rows([_tensor(row) for row in tokens])

    if isinstance(tokens, list | tuple) and not tokens:
        raise InvalidArgument("tokens must have at least one row; got none")
    ids = _tensor(tokens)
    if ids.ndim == 1:
        ids = ids.unsqueeze(0)
    _check_form(ids)
    batch = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    if len(ids) > 1:
        _warn_of_padding(host, batch)
    return batch


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or is_chat(value)


def _is_ids(value: Any) -> bool:
    """Whether a value is one row of ids, of a length of its own."""
    if isinstance(value, Tensor):
        return value.ndim == 1
    if not isinstance(value, list | tuple):
        return getattr(value, "ndim", 0) == 1
    return not any(isinstance(item, list | tuple | str | Mapping) for item in value)


def _is_list_of(tokens: Any, is_item: Any) -> bool:
    is_list = isinstance(tokens, list | tuple) and len(tokens) > 0
    return is_list and all(is_item(item) for item in tokens)


def _of_texts(host: Host, texts: Sequence[Any]) -> TokenBatch:
    """Texts and chats, tokenised one by one: given all of them, a tokenizer may pad."""
    chats = [_tokenized(host, text) for text in texts]
    batch = _of_rows([chat.ids for chat in chats])

    roles: dict[str, Tensor] = {}
    for row, chat in enumerate(chats):
        for role, mask in chat.roles.items():
            of_role = roles.setdefault(role, torch.zeros_like(batch.mask))
            of_role[row, : len(mask)] = mask
    return TokenBatch(batch.ids, batch.mask, roles)


def _tokenized(host: Host, text: Any) -> Chat:
    if host.tokenizer is None:
        raise InvalidArgument(
            f"a {type(host.model).__name__} has no tokenizer; give token ids "
            "[batch, pos] in place of text, or make a batch by sle.token_batch(model, "
            "texts, tokenizer=...)"
        )
    if isinstance(text, str):
        # Tokenizers do not accept halves of characters.
        ids = host.to_tokens(without_surrogates(text))[0]
        return Chat(ids.cpu(), {})
    return tokenized_chat(host.tokenizer, text)


def _of_encoding(host: Host, encoding: Mapping[str, Any]) -> TokenBatch:
    """A tokenizer's output: its ids, and its mask where it has one."""
    if "input_ids" not in encoding:
        raise InvalidArgument(
            "a mapping of tokens must be a tokenizer's output, with input_ids; this "
            f"has {', '.join(map(str, encoding)) or 'no keys'}"
        )
    _check_silent(encoding)
    id_rows = _rows(encoding["input_ids"], "input_ids")
    batch = _of_rows(id_rows)

    attention_mask = encoding.get("attention_mask")
    if attention_mask is None:
        _warn_of_padding(host, batch)
        return batch
    mask_rows = _rows(attention_mask, "attention_mask")
    lengths = [len(row) for row in id_rows]
    if [len(row) for row in mask_rows] != lengths:
        raise ShapeMismatch(
            "attention_mask must have the shape of input_ids, rows of "
            f"{_listed(lengths)} tokens; got rows of "
            f"{_listed([len(row) for row in mask_rows])}"
        )
    mask = pad_sequence(mask_rows, batch_first=True)
    is_binary = bool(((mask == 0) | (mask == 1)).all())
    if not is_binary:
        raise InvalidArgument(
            "attention_mask must be 1 at text and 0 at padding; it has other numbers"
        )
    return TokenBatch(batch.ids, mask.bool())


def _check_silent(encoding: Mapping[str, Any]) -> None:
    """Check that nothing but ids and their mask changes what a model computes."""
    for name, value in encoding.items():
        if name in ("input_ids", "attention_mask") or name in _SILENT:
            continue
        # One type of token alone is the same as no types.
        if name in _TYPES and not any(bool(row.any()) for row in _rows(value, name)):
            continue
        raise InvalidArgument(
            f"a batch of tokens is text alone, and {name} changes what the model "
            "computes: with splice(model, sae), make the model's own call on it, "
            "model(**inputs); or give input_ids and attention_mask of a text"
        )


def _warn_of_padding(host: Host, batch: TokenBatch) -> None:
    """Warn where ids without a mask seem to be padded.

    A padding token that also begins or ends texts says nothing.
    """
    tokenizer = host.tokenizer
    pad_id = getattr(tokenizer, "pad_token_id", None)
    ends = {
        getattr(tokenizer, "bos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    }
    if pad_id is None or pad_id in ends:
        return
    last = batch.ids.gather(1, batch.lengths.unsqueeze(1) - 1).squeeze(1)
    is_padded = (batch.ids[:, 0] == pad_id) | (last == pad_id)
    if is_padded.any():
        row = int(is_padded.nonzero()[0])
        warnings.warn(
            f"row {row} begins or ends with the padding token {pad_id}, and without an "
            "attention_mask it is read as text; pass the tokenizer's whole output, or "
            "the texts themselves",
            stacklevel=5,
        )


def _rows(values: Any, name: str) -> list[Tensor]:
    """The rows of a tensor, an array or lists; one row without an axis of rows."""
    if _is_list_of(values, _is_ids) and not _is_ids(values):
        return [_tensor(row, name) for row in values]
    tensor = _tensor(values, name)
    if tensor.ndim == 1:
        tensor = tensor.unsqueeze(0)
    if tensor.ndim != 2:
        raise ShapeMismatch(
            f"{name} must be [batch, pos]; got {list(tensor.shape)}; for one text "
            "leave out an axis"
        )
    return list(tensor)


def _of_rows(rows: Sequence[Tensor]) -> TokenBatch:
    """Rows of any lengths, padded on the right."""
    if not rows:
        raise InvalidArgument("tokens must have at least one row; got none")
    for index, row in enumerate(rows):
        if not row.numel():
            raise InvalidArgument(
                f"row {index} has no tokens: it must have at least one; leave it out"
            )
        _check_form(row.unsqueeze(0))

    ids = pad_sequence([row.long() for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    mask = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
    return TokenBatch(ids, mask)


def _tensor(tokens: Any, name: str = "tokens") -> Tensor:
    try:
        return torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        what = error
        if isinstance(tokens, Iterator):
            what = "make a list of what it gives"
        raise InvalidArgument(
            f"{name} must be {_FORMS}; "
            f"got an object of type {type(tokens).__name__} ({what})"
        ) from error


def _check_form(ids: Tensor) -> None:
    is_integer = not ids.is_floating_point() and ids.dtype != torch.bool
    if ids.ndim != 2 or not is_integer or ids.numel() == 0:
        raise InvalidArgument(
            "tokens must be ids [batch, pos], at least one of each; got "
            f"{ids.dtype} {list(ids.shape)}"
        )


def _check_ids(batch: TokenBatch, d_vocab: int | None) -> None:
    if d_vocab is None:
        return
    ids: Int[Tensor, " text"] = batch.ids[batch.mask]
    lowest = int(ids.min())
    highest = int(ids.max())
    if lowest < 0 or highest >= d_vocab:
        raise InvalidArgument(
            f"token ids must be from 0 to {d_vocab - 1} for this model; they run from "
            f"{lowest} to {highest}"
        )


def _check_length(batch: TokenBatch, host: Host) -> None:
    n_positions = position_limit(host.model)
    longest = int(batch.mask.sum(1).max())
    if n_positions is not None and longest > n_positions:
        raise ShapeMismatch(
            f"this model has {n_positions} positions, and a row of the tokens has "
            f"{longest}; cut it"
        )


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:8])
    return shown + (", ..." if len(numbers) > 8 else "")
