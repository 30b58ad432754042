"""Which positions of a run an intervention touches.

Positions count from the beginning of the text. A run in cached generation is one new token, so a ``Window`` says which part of
the text the run in progress covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext._arguments import as_integer
from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.hosts import Host
from sae_lens_ext.sae import SAE

Positions = slice | Tensor | Sequence[Any] | str | None
"""A slice of positions, a list of them, a boolean mask ``[batch, pos]`` or ``[pos]``, ``"all"``, or None for the default."""


@dataclass(frozen=True)
class Window:
    """The part of a text that the run in progress covers.

    Attributes:
        batch: rows of the run.
        length: its positions.
        start: how many positions came before them, in a cache.
        mask: where the splice acts, ``[batch, length]``; None means everywhere.
    """

    batch: int
    length: int
    start: int = 0
    mask: Bool[Tensor, "batch pos"] | None = None

    def chosen(self, positions: Any, rows: Any = None) -> Bool[Tensor, "batch pos"]:
        """A mask of the positions and rows that were asked for, both frozen.

        Raises:
            ShapeMismatch: a mask of another shape than the run, or a row that it does not have.
        """
        mask = (
            torch.ones(self.batch, self.length, dtype=torch.bool)
            if positions is None
            else self._positions(positions)
        )
        if rows is not None:
            outside = (
                []
                if isinstance(rows, slice)
                else [row for row in rows if not -self.batch <= row < self.batch]
            )
            if outside:
                raise ShapeMismatch(
                    f"rows names row {outside[0]}; this run has {self.batch}, from 0 on"
                )
            mask = mask & _indices(rows, self.batch).unsqueeze(1)
        return mask

    def spliced(
        self, acts: Float[Tensor, "batch pos features"]
    ) -> Bool[Tensor, "batch pos"]:
        """Where the splice acts, on the device of ``acts``."""
        everywhere = torch.ones(
            self.batch, self.length, dtype=torch.bool, device=acts.device
        )
        return everywhere if self.mask is None else self.mask.to(acts.device)

    def of(self, source: Tensor, what: str, like: Tensor) -> Tensor:
        """This window's part of ``source [batch or 1, pos, ...]``, zeros behind its end.

        Raises:
            ShapeMismatch: another number of rows.
        """
        if source.shape[0] not in (1, self.batch):
            raise ShapeMismatch(
                f"{what} has {source.shape[0]} rows; this run has {self.batch}"
            )
        part = source[:, self.start : self.start + self.length].to(like)
        missing = self.length - part.shape[1]
        if missing:
            part = torch.cat(
                [part, part.new_zeros(part.shape[0], missing, *part.shape[2:])], dim=1
            )
        return part.expand(self.batch, *part.shape[1:])

    def _positions(self, positions: Positions) -> Bool[Tensor, "batch pos"]:
        total = self.start + self.length
        mask = _as_mask(positions)
        if mask is None:
            return _indices(positions, total)[self.start :].expand(
                self.batch, self.length
            )
        # A mask is for the text the run began with; tokens that are generated after it are outside of it.
        fits = mask.shape[-1] <= total if self.start else mask.shape[-1] == total
        if not fits or (mask.ndim == 2 and mask.shape[0] not in (1, self.batch)):
            raise ShapeMismatch(
                f"the mask in positions is {list(mask.shape)}; this run has {[self.batch, total]} (batch, pos)"
            )
        mask = torch.cat(
            [mask, mask.new_zeros(*mask.shape[:-1], total - mask.shape[-1])], dim=-1
        )
        return mask[..., self.start :].expand(self.batch, self.length)


@dataclass(frozen=True)
class SplicedPositions:
    """Where in its runs a splice acts: what its user chose, or by default everywhere but on tokens its SAE was not trained on.

    Where there is no SAE, the default leaves special tokens alone.

    Attributes:
        chosen: the user's choice, frozen; None means everywhere.
        left_alone: ids of tokens where it does not act.
    """

    chosen: Any
    left_alone: tuple[int, ...]

    @classmethod
    def of(
        cls, host: Host, sae: SAE | None, positions: Positions
    ) -> "SplicedPositions":
        """Check the user's choice, and where none was made ask the SAE.

        Raises:
            InvalidArgument: none of what can be chosen by; or the SAE says that special tokens were left out, and the model does not
                say which tokens are special.
        """
        frozen = frozen_positions(positions, "positions")
        if positions is not None:
            return cls(frozen, ())
        return cls(
            frozen,
            tuple(sorted(host.special_token_ids()))
            if sae is None
            else _untrained_token_ids(host, sae),
        )

    @property
    def are_all(self) -> bool:
        """Whether it acts everywhere, whatever the tokens."""
        return self.chosen is None and not self.left_alone

    def mask(
        self, window: Window, tokens: Int[Tensor, "batch pos"] | None
    ) -> Bool[Tensor, "batch pos"] | None:
        """Where it acts in the run in progress, or None for everywhere.

        Raises:
            ShapeMismatch: a mask of another shape than the run.
            InvalidArgument: ids are to be left alone and this run was not given any.
        """
        if self.are_all:
            return None
        if self.chosen is not None:
            return window.chosen(self.chosen)
        if tokens is None or tokens.shape != (window.batch, window.length):
            raise InvalidArgument(
                "special tokens are left alone here, and this run was not given token ids to find them by; pass positions='all', a "
                "slice or a mask"
            )
        return ~torch.isin(tokens, torch.tensor(self.left_alone, device=tokens.device))

    def mask_of(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Where it acts in a run of these whole texts."""
        mask = self.mask(Window(tokens.shape[0], tokens.shape[1]), tokens)
        return (
            torch.ones_like(tokens, dtype=torch.bool)
            if mask is None
            else mask.to(tokens.device)
        )


def frozen_positions(positions: Any, name: str) -> Any:
    """Positions, or rows, in a form that can be compared: None, a slice, a tuple of numbers, or nested tuples of booleans.

    Raises:
        InvalidArgument: none of what can be chosen by.
    """
    if positions is None or (isinstance(positions, str) and positions == "all"):
        return None
    if isinstance(positions, slice):
        bounds = [
            as_integer(bound)
            for bound in (positions.start, positions.stop, positions.step)
            if bound is not None
        ]
        if None in bounds or (positions.step is not None and positions.step < 1):
            raise InvalidArgument(
                f"a slice of {name} must have whole numbers and go forward; got {positions}"
            )
        return positions
    try:
        tensor = torch.as_tensor(positions)
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.zeros(())
    if tensor.dtype == torch.bool and tensor.ndim in (
        (1, 2) if name == "positions" else (1,)
    ):
        return _nested_tuple(tensor.tolist())
    if (
        tensor.ndim == 1
        and tensor.numel()
        and not tensor.is_floating_point()
        and tensor.dtype != torch.bool
    ):
        return tuple(tensor.tolist())
    mask = (
        "a boolean mask [batch, pos] or [pos]"
        if name == "positions"
        else "a boolean mask"
    )
    got = (
        f"a {tensor.dtype} tensor {list(tensor.shape)}"
        if isinstance(positions, Tensor)
        else repr(positions)
    )
    raise InvalidArgument(
        f"{name} must be a slice, a list of whole numbers, {mask}, 'all' or None; got {got}"
    )


def positions_to_json(positions: Any) -> Any:
    """What ``frozen_positions`` gives, as a JSON value."""
    return (
        {"slice": [positions.start, positions.stop, positions.step]}
        if isinstance(positions, slice)
        else positions
    )


def positions_from_json(content: Any) -> Any:
    """The inverse of ``positions_to_json``."""
    return (
        slice(*content["slice"])
        if isinstance(content, dict) and set(content) == {"slice"}
        else content
    )


def _untrained_token_ids(host: Host, sae: SAE) -> tuple[int, ...]:
    excluded = sae.config.exclude_special_tokens
    if isinstance(excluded, tuple):
        return excluded
    if not excluded:
        return ()
    special = host.special_token_ids()
    if not special:
        raise InvalidArgument(
            "this SAE was trained without special tokens, and the model has neither a tokenizer nor token ids in its config to "
            "tell which those are; pass positions='all', a slice or a mask"
        )
    return tuple(sorted(special))


def _as_mask(positions: Any) -> Tensor | None:
    if isinstance(positions, slice):
        return None
    tensor = torch.as_tensor(positions)
    return tensor if tensor.dtype == torch.bool else None


def _indices(chosen: Any, total: int) -> Bool[Tensor, " total"]:
    mask = torch.zeros(total, dtype=torch.bool)
    if isinstance(chosen, slice):
        mask[chosen] = True
        return mask
    numbers = torch.as_tensor(chosen)
    if numbers.dtype == torch.bool:
        if len(numbers) != total:
            raise ShapeMismatch(
                f"the mask in rows has {len(numbers)} entries; this run has {total} rows"
            )
        return numbers
    numbers = torch.where(numbers < 0, numbers + total, numbers)
    mask[numbers[(numbers >= 0) & (numbers < total)]] = True
    return mask


def _nested_tuple(values: list[Any]) -> tuple[Any, ...]:
    return tuple(
        _nested_tuple(value) if isinstance(value, list) else value for value in values
    )
