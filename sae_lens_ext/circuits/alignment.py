"""Which tokens of different prompts are the same place.

A node of a circuit has to mean something on other prompts. Its position is therefore
counted from the start or the end of the text, has a name in a template, or is
``"all"``: wherever the feature is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.errors import InvalidArgument, ShapeMismatch

Kind = Literal["start", "end", "all", "names"]
Align = Literal["start", "end", "all"] | Mapping[str, Any] | None
"""How positions of prompts correspond: counted from the start or the end of the text,
by name (a position for every row, or a list with one per row), or not at all.
"""

EVERYWHERE = "all"
"""The position of a node that is wherever its feature is."""

Label = int | str
"""A position as tables of circuits have it."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Numbers the places of tokens: slots, of which 0 stands for every place.

    Attributes:
        kind: what positions are counted from; ``"names"`` for those of a template.
        names: by name, its position in all rows, or one per row.
    """

    kind: Kind
    names: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def described(self) -> str:
        """What positions are counted from, in words."""
        if self.kind == "names":
            return f"align={sorted(self.names)}"
        return f"align={self.kind!r}"

    @classmethod
    def of(cls, align: Align, lengths: Sequence[int]) -> "Alignment":
        """What the user chose; by default the start where all rows have one length.

        Raises:
            InvalidArgument: not an alignment.
        """
        if align is None:
            return cls("start" if len(set(lengths)) == 1 else "all")
        if isinstance(align, Mapping):
            return cls("names", _checked_names(align))
        kinds: tuple[Kind, ...] = ("start", "end", "all")
        if not isinstance(align, str) or align not in kinds:
            raise InvalidArgument(
                "align must be 'start', 'end', 'all', or positions by name, such as "
                f"{{'subject': 3, 'verb': -1}}; got {described(align)}"
            )
        return cls(next(kind for kind in kinds if kind == align))

    def slots(self, lengths: Sequence[int]) -> Int[Tensor, "rows pos"]:
        """The slot of every position of some rows, padding included.

        Raises:
            InvalidArgument: a name is not in a row, or two names are one token.
            ShapeMismatch: a name has positions for another number of rows.
        """
        columns = torch.arange(max(lengths))
        if self.kind == "all":
            return torch.zeros(len(lengths), len(columns), dtype=torch.int64)
        if self.kind == "start":
            return (columns + 1).expand(len(lengths), -1)
        if self.kind == "end":
            return (torch.tensor(lengths).unsqueeze(1) - columns).clamp(min=0)

        # Tokens without a name share a slot that no node has.
        slots = torch.full((len(lengths), len(columns)), len(self.names) + 1)
        for slot, name in enumerate(self.names, start=1):
            for row, position in enumerate(self._positions(name, lengths)):
                if slots[row, position] <= len(self.names):
                    raise InvalidArgument(
                        f"align names position {position} of row {row} twice; the "
                        f"second name is {name!r}: give one name to a token"
                    )
                slots[row, position] = slot
        return slots

    def slot_of(self, position: Label) -> int:
        """The slot of a node.

        Raises:
            InvalidArgument: a position that this alignment does not have.
        """
        if position == EVERYWHERE:
            return 0
        if isinstance(position, str) and position in self.names:
            return list(self.names).index(position) + 1
        number = arguments.as_integer(position)
        if number is not None and self.kind == "start" and number >= 0:
            return number + 1
        if number is not None and self.kind == "end" and number < 0:
            return -number
        expected = {
            "start": "an integer of at least 0",
            "end": "a negative integer, -1 for the last token",
            "all": "'all'",
            "names": f"one of {', '.join(self.names)}",
        }
        raise InvalidArgument(
            f"with {self.described()}, the position of a node must be "
            f"{expected[self.kind]}; got {position!r}"
        )

    def label_of(self, slot: int) -> Label | None:
        """The position of a node with this slot; None for tokens without a name."""
        if slot == 0:
            return EVERYWHERE
        if self.kind == "start":
            return slot - 1
        if self.kind == "end":
            return -slot
        names = list(self.names)
        return names[slot - 1] if slot <= len(names) else None

    def has_nodes(self, slots: Int[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Whether nodes may have these slots: all but that of tokens without a name."""
        if self.kind != "names":
            return torch.ones_like(slots, dtype=torch.bool)
        return slots <= len(self.names)

    def _positions(self, name: str, lengths: Sequence[int]) -> list[int]:
        """The position of a name in every row, counted from 0."""
        positions = self.names[name]
        if len(positions) not in (1, len(lengths)):
            raise ShapeMismatch(
                f"align has {len(positions)} positions of {name!r}, and there are "
                f"{len(lengths)} rows; give one for all rows or one for each"
            )
        if len(positions) == 1:
            positions = positions * len(lengths)

        from_start = []
        for row, (position, length) in enumerate(zip(positions, lengths, strict=True)):
            if not -length <= position < length:
                raise InvalidArgument(
                    f"align has {name!r} at position {position}, which is not in row "
                    f"{row} of {length} tokens"
                )
            from_start.append(position % length)
        return from_start


def _checked_names(align: Mapping[Any, Any]) -> dict[str, tuple[int, ...]]:
    names = {}
    for name, positions in align.items():
        if not isinstance(name, str) or name == EVERYWHERE:
            raise InvalidArgument(
                f"a name in align must be a string other than 'all'; got {name!r}"
            )
        number = arguments.as_integer(positions)
        if number is not None:
            names[name] = (number,)
            continue
        names[name] = arguments.integers(positions, f"align[{name!r}]")
    if not names:
        raise InvalidArgument("align must name at least one position; got none")
    return names
