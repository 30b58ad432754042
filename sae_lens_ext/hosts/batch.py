"""Rows of token ids, with where in them the text is."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, ShapeMismatch


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Rows of token ids of any lengths, and which of them are text.

    ``token_batch(model, tokens)`` makes one from texts, messages of a chat, lists of
    ids or a tokenizer's output, and everything that takes tokens takes a ``TokenBatch``
    as well.

    >>> ids = torch.tensor([[0, 0, 2, 5], [2, 7, 8, 9]])
    >>> batch = TokenBatch(ids, torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool())
    >>> batch
    TokenBatch(2 rows of 2 to 4 tokens)
    >>> batch.right_padded().ids.tolist()
    [[2, 5, 0, 0], [2, 7, 8, 9]]

    Attributes:
        ids: token ids; those of padding have no meaning.
        mask: True where a column is text of its row, False at padding. The text of a
            row is one stretch, with padding on either side of it.
        roles: for rows that are chats, the columns of each role; see ``role``.
    """

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    roles: Mapping[str, Bool[Tensor, "batch pos"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that ids and mask fit together.

        Raises:
            InvalidArgument: ids that are not integers, a mask that is not boolean, a
                row without text, or one whose text is interrupted by padding.
            ShapeMismatch: ids that are not ``[batch, pos]``, at least one of each, or a
                mask of another shape.
        """
        _check_tensors(self.ids, self.mask)
        for role, mask in self.roles.items():
            if mask.shape != self.ids.shape:
                raise ShapeMismatch(
                    f"the mask of role {role!r} is {list(mask.shape)}; ids are "
                    f"{list(self.ids.shape)}"
                )
        _check_rows(self.mask)

    @property
    def shape(self) -> torch.Size:
        """Rows and columns, padding included."""
        return self.ids.shape

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """The number of tokens of text in each row."""
        return self.mask.sum(dim=1)

    @property
    def n_tokens(self) -> int:
        """The number of tokens of text in all rows."""
        return int(self.mask.sum())

    @property
    def is_padded(self) -> bool:
        """Whether any column of any row is padding."""
        return not bool(self.mask.all())

    @property
    def is_right_padded(self) -> bool:
        """Whether the text of every row begins in the first column."""
        return bool(self.mask[:, 0].all())

    def role(self, name: str) -> Bool[Tensor, "batch pos"]:
        """Where the tokens of one role's messages are: ``"assistant"``, ``"user"``, ...

        Those are the tokens of what the messages say. What the chat template puts
        around it (the names of roles, the markers that begin and end a turn, BOS)
        belongs to no role. A token that is partly content counts as content.

        Raises:
            InvalidArgument: no message of this batch has that role.
        """
        if isinstance(name, str) and name in self.roles:
            return self.roles[name]
        if not self.roles:
            raise InvalidArgument(
                "this batch has no roles, because it was not made from messages; give "
                "token_batch a list of messages {'role': ..., 'content': ...} per row"
            )
        raise InvalidArgument(
            f"no message of this batch has the role {name!r}; its roles: "
            f"{', '.join(sorted(self.roles))}"
        )

    def right_padded(self) -> "TokenBatch":
        """The same rows with their padding moved to the end, as wide as the longest.

        There, columns are positions of the text, and padding is invisible to a causal
        model.
        """
        return self._beginning_at(torch.zeros_like(self.lengths))

    def left_padded(self) -> "TokenBatch":
        """The same rows with their padding first, as generation needs them.

        >>> ids = torch.tensor([[2, 5, 0], [2, 7, 8]])
        >>> batch = TokenBatch(ids, torch.tensor([[1, 1, 0], [1, 1, 1]]).bool())
        >>> batch.left_padded().ids.tolist()
        [[0, 2, 5], [2, 7, 8]]
        """
        return self._beginning_at(self.lengths.max() - self.lengths)

    def _beginning_at(self, starts: Int[Tensor, " batch"]) -> "TokenBatch":
        """Rows as wide as the longest, whose text begins in these columns."""
        width = int(self.lengths.max())
        position = torch.arange(width, device=self.ids.device) - starts.unsqueeze(1)
        is_text = (position >= 0) & (position < self.lengths.unsqueeze(1))
        if self.shape[1] == width and torch.equal(is_text, self.mask):
            return self

        # Rows are turned until their text is there.
        sources = (_starts(self.mask) + position) % self.shape[1]
        roles = {
            name: mask.gather(1, sources) & is_text for name, mask in self.roles.items()
        }
        return TokenBatch(self.ids.gather(1, sources), is_text, roles)

    def in_columns(
        self, values: Shaped[Tensor, "batch longest *rest"]
    ) -> Shaped[Tensor, "batch pos *rest"]:
        """Values at the positions of ``right_padded``, in the columns of this batch.

        Zeros at padding.
        """
        columns = torch.arange(self.shape[1], device=self.ids.device)
        sources = (columns - _starts(self.mask)).clamp(0, values.shape[1] - 1)
        return _gathered(values, sources, self.mask)

    def repeated(self, n_times: int) -> "TokenBatch":
        """All rows, ``n_times`` after each other."""
        roles = {name: mask.repeat(n_times, 1) for name, mask in self.roles.items()}
        return replace(
            self,
            ids=self.ids.repeat(n_times, 1),
            mask=self.mask.repeat(n_times, 1),
            roles=roles,
        )

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on another device."""
        roles = {name: mask.to(device) for name, mask in self.roles.items()}
        return replace(
            self, ids=self.ids.to(device), mask=self.mask.to(device), roles=roles
        )

    def __len__(self) -> int:
        """The number of rows."""
        return self.ids.shape[0]

    def __getitem__(self, rows: Any) -> "TokenBatch":
        """Some of the rows: a slice, or a list or mask of rows; a number keeps one."""
        if isinstance(rows, int):
            rows = [rows]
        roles = {name: mask[rows] for name, mask in self.roles.items()}
        return replace(self, ids=self.ids[rows], mask=self.mask[rows], roles=roles)

    def __repr__(self) -> str:
        """The number of rows, and their lengths."""
        shortest = int(self.lengths.min())
        longest = int(self.lengths.max())
        lengths = f"{shortest} to {longest}" if shortest < longest else f"{longest}"
        rows = "1 row" if len(self) == 1 else f"{len(self)} rows"
        return f"TokenBatch({rows} of {lengths} tokens)"


def as_batch(tokens: TokenBatch | Int[Tensor, "batch pos"]) -> TokenBatch:
    """A batch; ids without a mask are text everywhere."""
    if isinstance(tokens, TokenBatch):
        return tokens
    return TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool))


def by_position(
    values: Shaped[Tensor, "batch pos *rest"], mask: Bool[Tensor, "batch pos"]
) -> Shaped[Tensor, "batch longest *rest"]:
    """Values in the columns of a padded batch, by their positions in the text.

    Zeros after the end of a row's text. The inverse of ``TokenBatch.in_columns``.

    >>> mask = torch.tensor([[False, True, True]])
    >>> by_position(torch.tensor([[0, 5, 6]]), mask)
    tensor([[5, 6]])

    Args:
        values: what stands in each column.
        mask: True where a column is text of its row.
    """
    lengths = mask.sum(dim=1, keepdim=True)
    positions = torch.arange(int(lengths.max()), device=mask.device)
    sources = (_starts(mask) + positions).clamp(max=mask.shape[1] - 1)
    return _gathered(values, sources, positions < lengths)


def interrupted_rows(mask: Bool[Tensor, "batch pos"]) -> list[int]:
    """The rows in which text comes after padding that comes after text."""
    begins = mask[:, 1:] & ~mask[:, :-1]
    n_stretches = begins.sum(dim=1) + mask[:, 0]
    return (n_stretches > 1).nonzero().flatten().tolist()


def _starts(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch 1"]:
    """The column of the first token of every row."""
    # Of the maxima, which are the ones, argmax finds the first.
    return mask.byte().argmax(dim=1, keepdim=True)


def _gathered(
    values: Shaped[Tensor, "batch source *rest"],
    sources: Int[Tensor, "batch target"],
    mask: Bool[Tensor, "batch target"],
) -> Shaped[Tensor, "batch target *rest"]:
    """Values from the columns that ``sources`` names, zeros outside of ``mask``."""
    device = values.device
    rows = torch.arange(len(values), device=device).unsqueeze(1)
    moved = values[rows, sources.to(device)]

    trailing = [1] * (values.ndim - 2)
    is_text = mask.to(device).view(*mask.shape, *trailing)
    return moved.masked_fill(~is_text, 0)


def _check_tensors(ids: Tensor, mask: Tensor) -> None:
    """Check types and shapes."""
    for name, value in (("ids", ids), ("mask", mask)):
        if not isinstance(value, Tensor):
            raise InvalidArgument(
                f"{name} must be a tensor [batch, pos]; got an object of type "
                f"{type(value).__name__}; token_batch(model, tokens) takes lists"
            )
    is_integer = not ids.is_floating_point() and ids.dtype != torch.bool
    if not is_integer:
        raise InvalidArgument(f"ids must be integers; got {ids.dtype}")
    if ids.ndim != 2 or ids.numel() == 0:
        raise ShapeMismatch(
            f"ids must be [batch, pos], at least one of each; got {list(ids.shape)}"
        )
    if mask.dtype != torch.bool:
        raise InvalidArgument(
            f"mask must be boolean, True where a token is text; got {mask.dtype}"
        )
    if mask.shape != ids.shape:
        raise ShapeMismatch(
            f"mask must have the shape of ids, {list(ids.shape)}; got "
            f"{list(mask.shape)}"
        )


def _check_rows(mask: Bool[Tensor, "batch pos"]) -> None:
    """Check that the text of every row is one stretch of at least one token."""
    is_empty = ~mask.any(dim=1)
    if is_empty.any():
        row = int(is_empty.nonzero()[0])
        raise InvalidArgument(
            f"row {row} has no text: every token of it is padding; leave the row out"
        )

    interrupted = interrupted_rows(mask)
    if interrupted:
        raise InvalidArgument(
            f"the text of row {interrupted[0]} is interrupted by padding; the text of "
            "a row must be one stretch, with padding before or after it"
        )
