"""What can be set of a splice, before it is active and while it is: k, edits, the error term, positions."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.errors import (
    InvalidArgument,
    InvalidK,
    ShapeMismatch,
    UnknownSite,
    closest,
)
from sae_lens_ext.hosts import Host, spellings
from sae_lens_ext.interventions.arithmetic import ErrorTerm
from sae_lens_ext.interventions.dial import K, KRule, OneK, checked_dial
from sae_lens_ext.interventions.edits.features import AddDirection, Edit, FeatureEdit
from sae_lens_ext.interventions.positions.window import Positions, SplicedPositions
from sae_lens_ext.interventions.sites import checked_sites, saes_by_site
from sae_lens_ext.sae import SAE

Edits = Sequence[Edit] | Mapping[str, Sequence[Edit]]
"""Edits at the one site that is spliced, or by site name."""


class SpliceSettings:
    """The settings of a ``Splice``, each checked against its sites and SAEs when it is assigned."""

    def __init__(
        self,
        host: Host,
        sae: SAE | Mapping[str, SAE | None],
        k: K,
        *,
        error_term: ErrorTerm,
        edits: Edits,
        positions: Positions,
        extrapolate: bool,
    ) -> None:
        """Check everything; attach nothing yet."""
        self._host = host
        if not isinstance(extrapolate, bool):
            raise InvalidArgument(
                f"extrapolate must be True or False; got {extrapolate!r}"
            )
        self._extrapolate = extrapolate
        self.error_term = error_term
        names = list(sae) if isinstance(sae, Mapping) else []
        given = (
            {name: one for name, one in sae.items() if one is not None}
            if isinstance(sae, Mapping)
            else sae
        )
        self.saes: dict[str, SAE] = saes_by_site(given) if given or not names else {}
        self._sites = checked_sites(
            host, {name: self.saes.get(name) for name in names or self.saes}
        )
        self.positions = positions
        self._k: dict[str, int | Tensor | KRule] = {}
        self.k = k
        self._edits: dict[str, tuple[Edit, ...]] = dict.fromkeys(self._sites, ())
        self.edits = edits

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse what would have no effect."""
        if not (
            name.startswith("_")
            or name in ("codes", "saes")
            or isinstance(getattr(type(self), name, None), property)
        ):
            raise AttributeError(
                f"a splice has no {name!r} to set; what can be set: k, edits, error_term, positions"
            )
        super().__setattr__(name, value)

    @property
    def error_term(self) -> ErrorTerm:
        """Whether what the SAE leaves out is added back; see ``splice``."""
        return self._error_term

    @error_term.setter
    def error_term(self, error_term: ErrorTerm) -> None:
        if not (isinstance(error_term, bool) or error_term == "reference"):
            raise InvalidArgument(
                f"error_term must be False, True or 'reference'; got {error_term!r}"
            )
        self._error_term: ErrorTerm = error_term

    @property
    def positions(self) -> Positions:
        """Where it acts, as it was given; see ``splice``."""
        return self._positions

    @positions.setter
    def positions(self, positions: Positions) -> None:
        self._where = {
            name: SplicedPositions.of(self._host, self.saes.get(name), positions)
            for name in self._sites
        }
        self._positions = positions

    @property
    def k(self) -> Any:
        """How many features each token keeps: a value when it is the same at every site, else a dict by site name.

        What can be assigned: a number, a tensor of numbers per position (``[pos]`` or ``[batch, pos]``),
        a rule such as ``until_fvu(0.1)``, or None for what the SAE was trained at. A mapping changes the sites it names and leaves
        the others.
        """
        values = list(self._k.values())
        return (
            values[0]
            if values and all(_same(value, values[0]) for value in values)
            else dict(self._k)
        )

    @k.setter
    def k(self, k: K) -> None:
        wanted: Mapping[str, OneK] = (
            self._by_name(k) if isinstance(k, Mapping) else dict.fromkeys(self.saes, k)
        )
        bare = [name for name in wanted if name not in self.saes]
        if bare:
            raise InvalidK(f"there is no SAE at {bare[0]}, so no k either")
        checked = {
            name: checked_dial(self.saes[name], value, extrapolate=self._extrapolate)
            for name, value in wanted.items()
        }
        defaults: Mapping[str, Any] = (
            {name: one.config.k for name, one in self.saes.items()}
            if not self._k
            else self._k
        )
        self._k = {**defaults, **checked}

    @property
    def edits(self) -> Any:
        """The edits: a tuple when one site is spliced, else tuples by site name.

        What can be assigned: a list of edits where one site is spliced; lists by site name, which change the sites they name and leave
        the others; an empty list, for no edits anywhere.
        """
        return (
            next(iter(self._edits.values()))
            if len(self._sites) == 1
            else dict(self._edits)
        )

    @edits.setter
    def edits(self, edits: Edits) -> None:
        if not isinstance(edits, Mapping):
            if edits and len(self._sites) > 1:
                raise InvalidArgument(
                    f"several sites are spliced, so say where: edits={{{next(iter(self._sites))!r}: [...]}}"
                )
            edits = dict.fromkeys(self._sites, edits)
        wanted = self._by_name(edits)
        for name, some in wanted.items():
            if not isinstance(some, list | tuple) or not all(
                isinstance(edit, Edit) for edit in some
            ):
                raise InvalidArgument(
                    f"edits at {name} must be a list of edits such as Ablate(17); got {some!r}"
                )
            for edit in some:
                self._refuse_unfit(name, edit)
        self._edits = {
            **self._edits,
            **{name: tuple(some) for name, some in wanted.items()},
        }

    def _name(self, given: str) -> str:
        """The name this splice has for a site, whichever of its spellings was given."""
        found = (
            next((name for name in spellings(given) if name in self._sites), None)
            if isinstance(given, str)
            else None
        )
        if found is None:
            raise UnknownSite(
                f"nothing is spliced at {given!r}; something is at: {closest(str(given), self._sites)}"
            )
        return found

    def _by_name(self, by_site: Mapping[str, Any]) -> dict[str, Any]:
        return {self._name(given): value for given, value in by_site.items()}

    def _refuse_unfit(self, name: str, edit: Edit) -> None:
        sae = self.saes.get(name)
        if isinstance(edit, FeatureEdit):
            if sae is None:
                raise InvalidArgument(
                    f"{edit!r} edits features, and there is no SAE at {name}; AddDirection does not need one"
                )
            if max(edit.ids) >= sae.config.d_sae:
                raise InvalidArgument(
                    f"{edit!r}: the SAE at {name} has features 0 to {sae.config.d_sae - 1}"
                )
            if edit.mask_length not in (None, sae.config.d_sae):
                raise ShapeMismatch(
                    f"{edit!r} was given a mask over {edit.mask_length} features; the SAE at {name} has {sae.config.d_sae} of them"
                )
            if edit.run is not None and edit.run.d_sae(name) != sae.config.d_sae:
                raise ShapeMismatch(
                    f"{edit!r} takes activations from a run of another SAE: its features at {name} are {edit.run.d_sae(name)}, here they "
                    f"are {sae.config.d_sae}"
                )
        elif (
            isinstance(edit, AddDirection)
            and sae is not None
            and len(edit.vector) != sae.config.d_model
        ):
            raise ShapeMismatch(f"{edit!r}: {name} is {sae.config.d_model} wide")


def _same(one: int | Tensor | KRule, other: int | Tensor | KRule) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return (
            isinstance(one, Tensor)
            and isinstance(other, Tensor)
            and torch.equal(one.cpu(), other.cpu())
        )
    return one == other
