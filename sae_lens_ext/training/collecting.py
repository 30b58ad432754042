"""One pass of a model over some rows: the activations of the tokens that count."""

from collections.abc import Iterable, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts import TokenBatch, by_position, capture, host_for, token_rows
from sae_lens_ext.interventions.positions import (
    Positions,
    SplicedPositions,
    frozen_positions,
    known_special_ids,
)
from sae_lens_ext.interventions.shapes import check_activation


class _Locks:
    """A lock for each model, which is held during a pass.

    Streams that run a model in threads of their own would see each other's hooks.
    """

    def __init__(self) -> None:
        self._locks: WeakKeyDictionary[Any, Lock] = WeakKeyDictionary()
        self._own = Lock()

    def of(self, model: Any) -> Lock:
        """The lock of this model."""
        with self._own:
            return self._locks.setdefault(model, Lock())

    def __reduce__(self) -> tuple[type["_Locks"], tuple[()]]:
        """Nothing: nnsight packs this module with a trace that is sent elsewhere."""
        return _Locks, ()


_LOCKS = _Locks()


class Collector:
    """Runs a model up to its last site, and keeps the tokens that count there.

    By default those are all tokens of text that are not special; padding never counts.

    Attributes:
        host: the model.
        sites: the names of the sites, as the user wrote them.
        excludes_special_tokens: whether special tokens are left out.
    """

    def __init__(
        self, model: Any, sites: Sequence[str] | str, positions: Positions = None
    ) -> None:
        """Find the sites.

        Args:
            model: as in ``splice``.
            sites: one or several names of sites.
            positions: the tokens to keep instead, as in ``splice``.

        Raises:
            UnknownSite: the model has no such site.
            InvalidArgument: no site, or one that is named twice.
        """
        self.host = host_for(model).plain()
        self.sites = site_names(sites)
        self._sites = {name: self.host.site(name) for name in self.sites}
        special_ids = ()
        if positions is None:
            special_ids = known_special_ids(self.host, "collected activations")
        self._where = SplicedPositions(frozen_positions(positions), special_ids)
        self.excludes_special_tokens = bool(special_ids)

    def batch(self, tokens: Any) -> TokenBatch:
        """Tokens in any form that ``token_batch`` takes, on the model's device."""
        return token_rows(self.host, tokens)

    def mask_of(self, tokens: TokenBatch) -> Bool[Tensor, "batch pos"]:
        """Which tokens count, in the columns of the batch."""
        return self._where.mask_of(tokens)

    def n_special(self, tokens: TokenBatch, mask: Bool[Tensor, "batch pos"]) -> int:
        """How many special tokens a mask leaves out."""
        if not self.excludes_special_tokens:
            return 0
        return int((tokens.mask & ~mask).sum())

    def width(self, site: str) -> int | None:
        """The width of the activations at a site; None where only a run would tell."""
        return self.host.width(self._sites[site])

    def collect(
        self, tokens: TokenBatch, mask: Bool[Tensor, "batch pos"]
    ) -> dict[str, Float[Tensor, "token d"]]:
        """The activations at every site for the tokens that a mask chooses.

        Raises:
            ShapeMismatch: the activations at a site are not ``[batch, pos, d]``.
        """
        # As wide as the longest of these rows.
        rows = tokens.right_padded()
        row_mask = by_position(mask, tokens.mask)
        with _LOCKS.of(self.host.model), torch.no_grad():
            captured = capture(self.host, rows, self._sites.values())

        values: dict[str, Tensor] = {}
        for name, site in self._sites.items():
            activation = captured[site]
            check_activation(name, activation)
            values[name] = activation[row_mask.to(activation.device)]
        return values


def _shown(sites: Any) -> str:
    """What was passed in the place of names, which may be large tensors."""
    is_list = isinstance(sites, list | tuple)
    if is_list and all(isinstance(site, str | int | None) for site in sites):
        return repr(sites)
    return f"an object of type {type(sites).__name__}"


def site_names(sites: Sequence[str] | str) -> tuple[str, ...]:
    """Names of sites, from one or several.

    Raises:
        InvalidArgument: no site, one that is named twice, or anything but names.
    """
    names: tuple[Any, ...] = (sites,)
    if not isinstance(sites, str):
        names = tuple(sites) if isinstance(sites, Iterable) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidArgument(
            f"sites must be the name of a site, or a list of names; got {_shown(sites)}"
        )
    if len(set(names)) < len(names):
        raise InvalidArgument(f"sites must not repeat a name; got {', '.join(names)}")
    return names
