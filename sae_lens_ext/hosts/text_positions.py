"""Which position of its text each column of a run is.

Columns are not positions: a row may be padded on either side, a run may continue a
text that a cache holds, and several texts may be packed into one row. The rules, in the
order in which they are tried:

1. Padding is where the attention mask is 0. Positions count the columns of text of a
   row, those in a cache included.
2. Position ids that do not count up by one restart at every text of a packed row, and
   are believed. So are those of a run whose cache does not say how long it is.
3. Without a mask that covers the cache, positions go on after those that earlier runs
   put into it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts.batch import interrupted_rows
from sae_lens_ext.hosts.caches import Seen
from sae_lens_ext.hosts.calls import CallFacts
from sae_lens_ext.kernels import holds_numbers


@dataclass(frozen=True, eq=False)
class TextPositions:
    """The positions of a run's columns in their texts.

    Attributes:
        positions: of each column, from 0 at the first token of its text; -1 at padding.
        lengths: of the text that each column belongs to, up to the end of this run; 0
            at padding.
        start: number of columns that came before this run's, in a cache.
        is_padded: whether any column is padding; where that cannot be known, True.
    """

    positions: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, "batch pos"]
    start: int
    is_padded: bool

    @classmethod
    def counted(cls, batch: int, length: int, start: int = 0) -> "TextPositions":
        """Columns without padding, after ``start`` others."""
        columns = torch.arange(start, start + length)
        positions = columns.expand(batch, length)
        return cls(positions, torch.full_like(positions, start + length), start, False)


def text_positions(
    facts: CallFacts, batch: int, length: int, seen: Seen | None = None
) -> TextPositions:
    """The positions of the columns of a run.

    Args:
        facts: what the run's arguments say.
        batch: rows of the run.
        length: columns of the run.
        seen: what earlier runs put into the run's cache, if that is known.
    """
    if facts.shape is not None and facts.shape[1] != length:
        # An activation with another axis, such as the patches of an image.
        return TextPositions.counted(batch, length)

    start = _start(facts, length, seen)
    whole = _whole_mask(facts, batch, length, start)
    if whole is not None and not _has_padding(whole):
        whole = None
    ids = _position_ids(facts, batch, length)
    mask = _mask(facts, whole, batch, length, start)
    if start is not None and all(
        fact is None for fact in (whole, mask, ids, seen if start else None)
    ):
        return TextPositions.counted(batch, length, start)

    counted = _counted(whole, mask, batch, length, start or 0, seen)
    if ids is not None and _are_believed(ids, counted, start):
        positions = ids.where(counted >= 0, -1)
    else:
        positions = counted
    lengths = _lengths(positions)
    is_padded = whole is not None or mask is not None
    return TextPositions(positions, lengths, start or 0, is_padded)


def check_padding(facts: CallFacts) -> None:
    """Check that no text of a run is interrupted by padding.

    Raises:
        InvalidArgument: it is, as where new tokens follow a prompt with padding on the
            right.
    """
    mask = facts.attention_mask
    if mask is None or not holds_numbers(mask):
        return
    rows = interrupted_rows(mask)
    if rows:
        raise InvalidArgument(
            f"the attention mask of row {rows[0]} has padding between tokens of text, "
            "as where new tokens follow a prompt that is padded on the right; pad "
            "prompts on the left (tokenizer.padding_side = 'left')"
        )


def _start(facts: CallFacts, length: int, seen: Seen | None) -> int | None:
    """The number of columns before this run's; None where nothing tells."""
    if facts.cached:
        return facts.cached
    mask = facts.attention_mask
    if mask is not None and mask.shape[1] > length:
        return mask.shape[1] - length
    if seen is not None:
        return seen.columns
    if facts.cache is None or facts.cached is not None:
        return 0
    # A cache that does not say, in its first run or made elsewhere.
    return None if facts.position_ids is not None else 0


def _whole_mask(
    facts: CallFacts, batch: int, length: int, start: int | None
) -> Tensor | None:
    """The attention mask over all columns up to the end of this run."""
    mask = facts.attention_mask
    end = (start or 0) + length
    if mask is None or mask.shape[0] not in (1, batch) or mask.shape[1] < end:
        return None
    # The mask of a cache of fixed size may be as wide as the cache.
    return mask[:, :end].expand(batch, end)


def _mask(
    facts: CallFacts, whole: Tensor | None, batch: int, length: int, start: int | None
) -> Bool[Tensor, "batch pos"] | None:
    """Where this run's own columns are text; None where all of them are."""
    if whole is not None:
        return whole[:, -length:]

    mask = facts.attention_mask
    if mask is not None:
        fits = mask.shape[0] in (1, batch) and mask.shape[1] == length
        if not fits or not _has_padding(mask):
            return None
        return mask.expand(batch, length)

    pairs = facts.attended
    begin = start or 0
    if pairs is None or pairs.shape[0] not in (1, batch) or pairs.shape[2] != length:
        return None
    if pairs.shape[3] < begin + length:
        return None
    # Every token attends to itself, and nothing attends to padding.
    own = pairs[:, 0, :, begin : begin + length].diagonal(dim1=1, dim2=2)
    return own.expand(batch, length) if _has_padding(own) else None


def _has_padding(mask: Tensor) -> bool:
    # Where numbers cannot be looked at, there may be some.
    return not holds_numbers(mask) or not bool(mask.all())


def _position_ids(facts: CallFacts, batch: int, length: int) -> Tensor | None:
    ids = facts.position_ids
    if ids is None or ids.shape[0] not in (1, batch) or ids.shape[1] != length:
        return None
    # Padding may be numbered by anything, also by negative numbers.
    return ids.long().expand(batch, length) if holds_numbers(ids) else None


def _counted(
    whole: Tensor | None,
    mask: Tensor | None,
    batch: int,
    length: int,
    start: int,
    seen: Seen | None,
) -> Int[Tensor, "batch pos"]:
    """Positions by counting columns of text."""
    if whole is not None:
        counts = whole.long().cumsum(dim=1)
        return (counts - 1).where(whole, -1)[:, -length:]

    if mask is None:
        mask = torch.ones(batch, length, dtype=torch.bool)
    before = torch.full((batch, 1), start, device=mask.device)
    if start and seen is not None and len(seen.lengths) == batch:
        # A cache that was cut since, or went on elsewhere, did so by tokens of text.
        n_more = start - seen.columns
        before = (seen.lengths.to(mask.device) + n_more).unsqueeze(1)
    counts = before + mask.long().cumsum(dim=1)
    return (counts - 1).where(mask, -1)


def _are_believed(ids: Tensor, counted: Tensor, start: int | None) -> bool:
    """Whether position ids are the positions, and not only another way to count.

    Ids that count up by one over a row may begin anywhere (at the number of columns of
    padding, or at 1), and the first token of a text is at 0 all the same.
    """
    if start is None:
        return True
    is_text = counted >= 0
    follows = is_text[:, 1:] & is_text[:, :-1]
    steps = ids.diff(dim=1)
    return bool((follows & (steps != 1)).any())


def _lengths(positions: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """The length, so far, of the text that each column belongs to."""
    is_text = positions >= 0
    # A text begins where positions do not count up by one.
    begins = torch.ones_like(is_text)
    begins[:, 1:] = positions.diff(dim=1) != 1
    text = begins.long().cumsum(dim=1)

    longest = torch.zeros(
        len(positions), positions.shape[1] + 1, dtype=torch.int64, device=text.device
    )
    longest = longest.scatter_reduce(1, text, positions + 1, "amax")
    return longest.gather(1, text).where(is_text, 0)
