"""Messages of a chat as tokens, and which of the tokens each message is.

1. Render the chat once with every content replaced by a unique word. What stands
   between these words are the pieces of the chat template itself.
2. Put the real contents (some templates strip them) between the pieces. That must give
   what the template makes of the real messages, so that every character of the text is
   known to be a content's or the template's.
3. Tokenise the text with offsets, which map tokens to characters.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument


class Span(NamedTuple):
    """The characters of one message's content in the text of a chat.

    Attributes:
        role: of the message.
        start: its first character.
        stop: the character after its last one.
    """

    role: str
    start: int
    stop: int


class Chat(NamedTuple):
    """One chat as tokens.

    Attributes:
        ids: token ids, ``[pos]``.
        roles: for each role, which tokens are its messages', ``[pos]``.
    """

    ids: Tensor
    roles: dict[str, Tensor]


# What templates are known to do to a content: nothing, or to strip it.
_CHANGES: tuple[Callable[[str], str], ...] = (
    lambda content: content,
    lambda content: content.strip(),
    lambda content: content.rstrip(),
    lambda content: content.lstrip(),
    lambda content: content.strip("\n"),
    lambda content: content.lstrip("\n"),
    lambda content: content.rstrip("\n"),
)


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages, valid or not."""
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(message, Mapping) for message in value)


def tokenized_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> Chat:
    """The tokens of a chat, as the tokenizer's chat template writes it.

    Raises:
        InvalidArgument: the messages are not ``{"role": ..., "content": ...}`` with
            texts; the tokenizer has no chat template, does not know where in the text a
            token stands, or its template rejects or rewrites the messages.
    """
    _check_messages(messages)
    _check_tokenizer(tokenizer)
    text, spans = rendered_chat(tokenizer, messages)

    # The template writes BOS and the like itself.
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = torch.tensor(encoding["offset_mapping"]).reshape(-1, 2)
    starts, stops = offsets.unbind(dim=1)

    roles: dict[str, Tensor] = {}
    for span in spans:
        # A token of whitespace may be given no characters, only a place.
        overlaps = (starts < span.stop) & (stops > span.start)
        is_inside = (starts >= span.start) & (stops <= span.stop) & (starts < span.stop)
        mask = overlaps | is_inside
        before = roles.get(span.role, torch.zeros_like(mask))
        roles[span.role] = before | mask
    return Chat(torch.tensor(encoding["input_ids"]), roles)


def rendered_chat(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]]
) -> tuple[str, list[Span]]:
    """The text of a chat, and where in it the content of every message is.

    Raises:
        InvalidArgument: the template rejects or rewrites the messages.
    """
    text = _rendered(tokenizer, messages)
    words = [f"content{index}x{uuid.uuid4().hex}" for index in range(len(messages))]
    stand_ins = [
        {**message, "content": word}
        for message, word in zip(messages, words, strict=True)
    ]
    pieces = _pieces(_rendered(tokenizer, stand_ins), words)
    if pieces is not None:
        spans = _spans(text, pieces, messages)
        if spans is not None:
            return text, spans

    raise InvalidArgument(
        "the chat template of this tokenizer rewrites messages (it leaves some out, "
        "repeats them or changes their text), so it cannot be told which tokens are "
        "whose; give the rendered text, or token ids, and make masks of them"
    )


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    for index, message in enumerate(messages):
        role = message.get("role")
        content = message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise InvalidArgument(
                "messages must be {'role': 'user', 'content': 'a text'}; message "
                f"{index} is {dict(message)!r}"
            )


def _check_tokenizer(tokenizer: Any) -> None:
    name = type(tokenizer).__name__
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidArgument(
            f"this {name} has no chat template to write messages with; set "
            "tokenizer.chat_template, or give the text"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidArgument(
            f"a {name} is a slow tokenizer, which does not say which characters a "
            "token stands for; load it with use_fast=True"
        )


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    chat = [dict(message) for message in messages]
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False)
    # Templates are programs, and raise what they like: jinja's errors for roles that
    # they do not know, Python's for a message that lacks a key.
    except Exception as error:
        raise InvalidArgument(
            f"the chat template of this tokenizer rejects these messages: {error}"
        ) from error


def _pieces(text: str, words: Sequence[str]) -> list[str] | None:
    """The text between the words; None unless each is there once, in order."""
    pieces = []
    rest = text
    for word in words:
        piece, separator, rest = rest.partition(word)
        if not separator:
            return None
        pieces.append(piece)
    pieces.append(rest)
    is_repeated = any(word in piece for word in words for piece in pieces)
    return None if is_repeated else pieces


def _spans(
    text: str, pieces: Sequence[str], messages: Sequence[Mapping[str, Any]]
) -> list[Span] | None:
    """Where the contents stand in the text; None if they do not make it up."""
    if not text.startswith(pieces[0]):
        return None
    position = len(pieces[0])

    spans = []
    for message, piece in zip(messages, pieces[1:], strict=True):
        content = _written(text, position, message["content"], piece)
        if content is None:
            return None
        stop = position + len(content)
        spans.append(Span(message["role"], position, stop))
        position = stop + len(piece)
    return spans if position == len(text) else None


def _written(text: str, position: int, content: str, piece: str) -> str | None:
    """A content as it is written at a position of the text, before the next piece."""
    for change in _CHANGES:
        changed = change(content)
        if text.startswith(changed + piece, position):
            return changed
    return None
