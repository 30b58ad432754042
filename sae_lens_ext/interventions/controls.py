"""The controls of a splice: k, edits, the error term and positions."""

from collections.abc import Mapping, Sequence
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.errors import (
    InvalidArgument,
    InvalidK,
    ShapeMismatch,
    UnknownSite,
    closest,
)
from sae_lens_ext.hosts import Host, spellings
from sae_lens_ext.interventions.arithmetic import ErrorTerm
from sae_lens_ext.interventions.dial import CheckedK, K, checked_k, same_k
from sae_lens_ext.interventions.edits import AddDirection, Edit, FeatureEdit
from sae_lens_ext.interventions.positions import Positions, SplicedPositions
from sae_lens_ext.interventions.sites import Placement, SiteName
from sae_lens_ext.interventions.until_kl import UntilKL
from sae_lens_ext.sae import SAE

Edits = Sequence[Edit] | Mapping[str, Sequence[Edit]]
"""Edits at the one site that is spliced, or by site name."""


class Controls:
    """k, edits, the error term and positions of a splice, each checked when assigned.

    An assignment that fails changes nothing. See ``Splice`` for what can be assigned;
    the values that a run uses at one site are ``k_at``, ``edits_at`` and
    ``positions_at``.

    Attributes:
        saes: the SAEs by site name.
        extrapolate: whether k may exceed the k that an SAE was trained at.
    """

    def __init__(
        self,
        host: Host,
        placed: Mapping[str, Placement],
        *,
        k: K,
        error_term: ErrorTerm,
        edits: Edits,
        positions: Positions,
        extrapolate: bool,
    ) -> None:
        """Check the values of a splice; at some or all of its sites there is an SAE.

        Raises:
            InvalidArgument, InvalidK, ShapeMismatch, UnknownSite: as in ``splice``.
        """
        self._host = host
        self._names = list(placed)
        self.saes: Mapping[str, SAE] = {
            name: place.sae for name, place in placed.items() if place.sae is not None
        }
        self.extrapolate = arguments.flag(extrapolate, "extrapolate")
        self.error_term = error_term
        self.positions = positions

        self._k: dict[str, CheckedK | UntilKL] = {
            name: sae.config.k for name, sae in self.saes.items()
        }
        self.k = k
        self._edits: dict[str, tuple[Edit, ...]] = dict.fromkeys(self._names, ())
        self.edits = edits

    @property
    def error_term(self) -> ErrorTerm:
        """See ``Splice.error_term``."""
        return self._error_term

    @error_term.setter
    def error_term(self, error_term: ErrorTerm) -> None:
        if not isinstance(error_term, bool) and error_term != "reference":
            raise InvalidArgument(
                f"error_term must be False, True or 'reference'; got {error_term!r}"
            )
        self._error_term: ErrorTerm = error_term

    @property
    def positions(self) -> Positions:
        """See ``Splice.positions``."""
        return self._positions

    @positions.setter
    def positions(self, positions: Positions) -> None:
        self._where = {
            name: SplicedPositions.of(self._host, self.saes.get(name), positions)
            for name in self._names
        }
        self._positions = positions

    @property
    def k(self) -> Any:
        """See ``Splice.k``."""
        values = list(self._k.values())
        if values and all(same_k(value, values[0]) for value in values):
            return values[0]
        return dict(self._k)

    @k.setter
    def k(self, k: K) -> None:
        if isinstance(k, Mapping):
            by_name = self._by_name(k)
        else:
            by_name = dict.fromkeys(self.saes, k)
        for name in by_name:
            if name not in self.saes:
                raise InvalidK(f"there is no SAE at {name}, so no k either")
        checked = {
            name: checked_k(self.saes[name], value, extrapolate=self.extrapolate)
            for name, value in by_name.items()
        }
        all_k = {**self._k, **checked}
        _check_one_bound(all_k)
        self._k = all_k

    @property
    def edits(self) -> Any:
        """See ``Splice.edits``."""
        if len(self._names) == 1:
            return self._edits[self._names[0]]
        return dict(self._edits)

    @edits.setter
    def edits(self, edits: Edits) -> None:
        if isinstance(edits, Mapping):
            by_name = self._by_name(edits)
        elif edits and len(self._names) > 1:
            raise InvalidArgument(
                "edits at several sites must say where: "
                f"edits={{{self._names[0]!r}: [...]}}"
            )
        else:
            by_name = dict.fromkeys(self._names, edits)
        checked = {
            name: self._checked_edits(name, site_edits)
            for name, site_edits in by_name.items()
        }
        self._edits = {**self._edits, **checked}

    @property
    def needs_tokens(self) -> bool:
        """Whether positions depend on the tokens, or on the window, of a run."""
        return not all(positions.are_all for positions in self._where.values())

    def k_at(self, name: str) -> CheckedK | UntilKL:
        """k at a site that has an SAE."""
        return self._k[name]

    @property
    def until_kl(self) -> UntilKL | None:
        """The bound by which a run chooses its k; None where no site has one."""
        return next((k for k in self._k.values() if isinstance(k, UntilKL)), None)

    def edits_at(self, name: str) -> tuple[Edit, ...]:
        """The edits at a site."""
        return self._edits[name]

    def positions_at(self, name: str) -> SplicedPositions:
        """Where in its runs the splice acts at a site."""
        return self._where[name]

    def name_of(self, site: SiteName) -> str:
        """The name that the splice has for a site, which may be in another spelling.

        Raises:
            UnknownSite: the splice is not at that site.
        """
        # A transcoder goes by the name of its output.
        if isinstance(site, tuple) and len(site) == 2:
            site = site[1]
        names = spellings(site) if isinstance(site, str) else []
        for name in names:
            if name in self._names:
                return name
        raise UnknownSite(
            f"nothing is spliced at {site!r}; something is at: "
            f"{closest(str(site), self._names)}"
        )

    def __str__(self) -> str:
        """Where, at which k, with which edits."""
        parts = []
        for name in self._names:
            part = name
            if name in self.saes:
                part += f": k={self.k_at(name)}"
            edits = self.edits_at(name)
            if edits:
                part += f", {list(edits)}"
            parts.append(part)
        description = "; ".join(parts)
        if self.error_term:
            description += f"; error_term={self.error_term!r}"
        return description

    def _by_name(self, by_site: Mapping[str, Any]) -> dict[str, Any]:
        return {self.name_of(site): value for site, value in by_site.items()}

    def _checked_edits(self, name: str, edits: Any) -> tuple[Edit, ...]:
        are_edits = isinstance(edits, list | tuple) and all(
            isinstance(edit, Edit) for edit in edits
        )
        if not are_edits:
            raise InvalidArgument(
                f"edits at {name} must be a list of edits such as Ablate(17); "
                f"got {described(edits)}"
            )

        sae = self.saes.get(name)
        for edit in edits:
            if isinstance(edit, FeatureEdit):
                _check_features(edit, name, sae)
            elif isinstance(edit, AddDirection) and sae is not None:
                _check_direction(edit, name, sae)
        return tuple(edits)


def _check_one_bound(k: Mapping[str, CheckedK | UntilKL]) -> None:
    """Check that sites with a bound share it, because the prediction is of all."""
    bounds = {repr(value) for value in k.values() if isinstance(value, UntilKL)}
    if len(bounds) > 1:
        raise InvalidK(
            "sites that choose k by the prediction choose one k together, so they must "
            f"share one bound; got {' and '.join(sorted(bounds))}"
        )


def _check_features(edit: FeatureEdit, name: str, sae: SAE | None) -> None:
    """Check that an edit of features is made for this SAE."""
    if sae is None:
        raise InvalidArgument(
            f"{edit!r} edits features, and there is no SAE at {name}; "
            "AddDirection does not need one"
        )
    d_sae = sae.config.d_sae
    if max(edit.ids) >= d_sae:
        raise InvalidArgument(
            f"{edit!r}: the SAE at {name} has features 0 to {d_sae - 1}"
        )
    if edit.mask_length not in (None, d_sae):
        raise ShapeMismatch(
            f"{edit!r} was made with a mask over {edit.mask_length} features; "
            f"the SAE at {name} has {d_sae} of them"
        )
    if edit.run is not None and edit.run.d_sae(name) != d_sae:
        raise ShapeMismatch(
            f"{edit!r} takes activations from a run of another SAE: it has "
            f"{edit.run.d_sae(name)} features at {name}, and this one has {d_sae}"
        )


def _check_direction(edit: AddDirection, name: str, sae: SAE) -> None:
    """Check that a direction is as wide as the activation that the SAE writes."""
    if len(edit.vector) != sae.config.output_width:
        raise ShapeMismatch(f"{edit!r}: {name} is {sae.config.output_width} wide")
