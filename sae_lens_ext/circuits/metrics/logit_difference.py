"""How much more one token is predicted than another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.circuits.metrics.base import Reference, TokenMetric, TokenScore
from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.hosts import Host

Tokens = int | str | Sequence[int | str] | Tensor
"""A token for every row, or one per row: ids, or strings that are one token each."""


@dataclass(frozen=True)
class LogitDifference(TokenMetric):
    """The metric that ``logit_difference`` makes.

    Attributes:
        yes: ids or strings of the tokens, one for all rows or one per row.
        no: those that are subtracted.
        position: in the text of every row.
    """

    yes: tuple[int | str, ...]
    no: tuple[int | str, ...]
    position: int = -1

    def bound(self, host: Host, n_rows: int, reference: Reference) -> TokenScore:
        """See ``TokenMetric.bound``."""
        yes = _ids(host, self.yes, n_rows, "yes")
        no = _ids(host, self.no, n_rows, "no")

        def score(logits: Tensor) -> Tensor:
            rows = torch.arange(len(logits), device=logits.device)
            return logits[rows, yes.to(rows.device)] - logits[rows, no.to(rows.device)]

        return score

    def described(self, row: int) -> str:
        """See ``TokenMetric.described``.

        >>> logit_difference([" is", " are"], " was").described(row=1)
        "logit_difference(' are', ' was')"
        """
        yes = self.yes[row % len(self.yes)]
        no = self.no[row % len(self.no)]
        place = "" if self.position == -1 else f", position={self.position}"
        return f"logit_difference({yes!r}, {no!r}{place})"


def logit_difference(yes: Tokens, no: Tokens, *, position: int = -1) -> LogitDifference:
    """The logit of one token less that of another, for every row.

    >>> logit_difference(" Paris", " Rome")
    LogitDifference(yes=(' Paris',), no=(' Rome',), position=-1)

    Args:
        yes: a token for all rows, or a list with one per row: ids, or strings that are
            one token of the model (mind the leading space).
        no: the token, or tokens, to compare with.
        position: where the prediction is made, in the text of every row: -1 is its last
            token, 0 its first.

    Raises:
        InvalidArgument: not ids or strings, or a position that is not an integer.
    """
    position = arguments.integer(position, "position")
    return LogitDifference(_checked(yes, "yes"), _checked(no, "no"), position)


def _checked(tokens: Any, name: str) -> tuple[int | str, ...]:
    if isinstance(tokens, str):
        return (tokens,)
    items = arguments.as_python(tokens)
    if not isinstance(items, list | tuple):
        items = [items]
    checked = []
    for item in items:
        number = arguments.as_integer(item)
        if not isinstance(item, str) and (number is None or number < 0):
            raise InvalidArgument(
                f"{name} must be a token id or a string, or a list with one per row; "
                f"got {described(tokens)}"
            )
        checked.append(item if number is None else number)
    if not checked:
        raise InvalidArgument(
            f"{name} must name at least one token; got {described(tokens)}"
        )
    return tuple(checked)


def _ids(host: Host, tokens: Sequence[int | str], n_rows: int, name: str) -> Tensor:
    """The ids of the tokens, one per row."""
    if len(tokens) not in (1, n_rows):
        raise ShapeMismatch(
            f"{name} has {len(tokens)} tokens, and there are {n_rows} rows; give one "
            "token for all rows or one for each"
        )
    ids = [_id(host, token, name) for token in tokens]
    return torch.tensor(ids).expand(n_rows)


def _id(host: Host, token: int | str, name: str) -> int:
    d_vocab = host.d_vocab
    if not isinstance(token, str):
        if d_vocab is not None and token >= d_vocab:
            raise InvalidArgument(
                f"{name}={token} is not a token of this model, which has ids from 0 "
                f"to {d_vocab - 1}"
            )
        return token

    if host.tokenizer is None:
        raise InvalidArgument(
            f"{name}={token!r} is text, and a {type(host.model).__name__} has no "
            "tokenizer; give token ids"
        )
    ids = host.tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = host.tokenizer.convert_ids_to_tokens(ids)
        raise InvalidArgument(
            f"{name}={token!r} is {len(ids)} tokens ({pieces}), and a logit belongs "
            "to one; choose a string that is one token (mind the leading space), or "
            "give its id"
        )
    return int(ids[0])
