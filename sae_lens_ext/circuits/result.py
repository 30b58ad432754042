"""The effects of every node at every k, and the tables of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.circuits.node_effects import EffectsK, NodeEffects, SiteK
from sae_lens_ext.circuits.nodes import SiteEffects
from sae_lens_ext.circuits.table import Columns, SiteTable, frame, joined
from sae_lens_ext.errors import InvalidArgument, InvalidK, UnknownSite, closest
from sae_lens_ext.hosts import spellings


@dataclass(frozen=True, eq=False, kw_only=True)
class Effects(NodeEffects):
    """Effects of nodes on a metric, at every k; made by ``circuits.effects``.

    A node is a feature at a position of a row, or the error there. Its effect is the
    change of the metric when it goes from its corrupted value, or from zero without a
    corrupted run, to its clean one: to first order, or, for the method
    ``"integrated_gradients"``, to first order all along the way.

    Attributes:
        method: how the effects were computed.
        setting: the SAEs, and the rows of tokens.
        metric_clean: the metric of the clean run: one number, or one per row.
        metric_corrupted: that of the corrupted run; None without one.
        freeze: what was held at its values in the clean run.
        sites: the effects at each site as tensors by position of the text, by the name
            of the site.
        completeness_gap: for integrated gradients, by the name of each site: the sum of
            all effects at the site, less the measured change of the metric when the
            activation there goes from corrupted to clean, of the whole batch or per row
            as the metric is; None for other methods.
    """

    sites: Mapping[str, SiteEffects]
    completeness_gap: Mapping[str, Float[Tensor, "*rows"]] | None = None

    @property
    def largest_k(self) -> dict[str, int]:
        """The largest k at each site; where every active feature is, any k is valid."""
        return {name: site.k for name, site in self.sites.items()}

    def at(self, k: EffectsK = None) -> Any:
        """The effects at one k, as a pandas DataFrame with one row per node.

        ============ ===================================================================
        column       meaning
        ============ ===================================================================
        ``row``      of the batch
        ``site``     name of the site
        ``position`` in the text of the row; 0 is its first token
        ``feature``  number of the feature; -1 is the error node
        ``rank``     the feature's place among those of the token, strongest first from
                     0 on: the node is there at every k above it. With a corrupted run,
                     the smaller of its two ranks. -1 for the error node
        ``effect``   in units of the metric
        ============ ===================================================================

        Features that are not active at the token, in either run, are not in the table.

        Args:
            k: features per token; a mapping from site to k where sites differ. None
                means the largest.

        Raises:
            InvalidK: not a k that was encoded.
            UnknownSite: a site of the mapping is not one of these.
        """
        table = frame(self._columns(k), self.sites)
        table.attrs = {"k": k, "method": self.method}
        return table

    def by_k(self, ks: Iterable[EffectsK] | None = None) -> Any:
        """The effects at several k, as one DataFrame: ``at(k)`` with a column ``k``.

        Args:
            ks: values of k; None means 1, 2, 3, ... up to the largest of any site that
                is valid at all of them.

        Raises:
            InvalidK: as in ``at``; or ``ks`` is empty or not a list.
            InvalidArgument: a k that is a mapping, which has no number.
        """
        numbers = self._checked_ks(ks)
        parts = [self._columns(k) for k in numbers]
        n_nodes = [len(part["row"]) for part in parts]
        columns = {"k": numpy.repeat(numpy.array(numbers), n_nodes)}
        for name in parts[0]:
            columns[name] = numpy.concatenate([part[name] for part in parts])
        return frame(columns, self.sites)

    def circuit_ks(self, k: EffectsK) -> dict[str, int | None]:
        """See ``NodeEffects.circuit_ks``."""
        ks = self.ks_at(k)
        # Where the codes hold every active feature here, other prompts may have more.
        return {
            name: None if site.is_whole and ks[name] >= site.k else ks[name]
            for name, site in self.sites.items()
        }

    def totals(self) -> dict[str, Float[Tensor, " batch"]]:
        """The sum of the effects of all nodes of a row, by site; the same at every k.

        It is the first-order change of the metric when the activation itself goes from
        corrupted to clean at every position that is looked at.
        """
        return {name: site.totals.sum(dim=1) for name, site in self.sites.items()}

    @cached_property
    def _tables(self) -> dict[str, SiteTable]:
        return {name: SiteTable.of(site) for name, site in self.sites.items()}

    def _columns(self, k: EffectsK) -> Columns:
        return joined(self._tables, self.ks_at(k))

    def ks_at(self, k: EffectsK) -> dict[str, int]:
        """The k of every site that ``at(k)`` has; errors as there."""
        by_site: dict[str, SiteK] = dict.fromkeys(self.sites)
        if isinstance(k, Mapping):
            for site, site_k in k.items():
                by_site[self._name_of(site)] = site_k
        else:
            by_site = dict.fromkeys(self.sites, k)
        return {
            name: _checked_k(site_k, name, self.sites[name])
            for name, site_k in by_site.items()
        }

    def _checked_ks(self, ks: Iterable[EffectsK] | None) -> list[int]:
        if ks is None:
            bounded = [site.k for site in self.sites.values() if not site.is_whole]
            largest = min(bounded, default=max(self.largest_k.values()))
            return list(range(1, largest + 1))

        if isinstance(ks, Mapping | str) or not isinstance(ks, Iterable):
            raise InvalidK(f"ks must be a list of values of k; got {described(ks)}")
        numbers = []
        for k in ks:
            if k is None or isinstance(k, Mapping):
                raise InvalidArgument(
                    f"ks must be numbers, which the column k has; got {k!r}: use "
                    "at(k) for one that differs between sites"
                )
            (number, *_) = self.ks_at(k).values()
            numbers.append(number)
        if not numbers:
            raise InvalidK("by_k needs at least one k; got none")
        return numbers

    def _name_of(self, site: str) -> str:
        """The name of a site that may be given in another spelling."""
        for name in spellings(site):
            if name in self.sites:
                return name
        raise UnknownSite(
            f"there are no effects at {site!r}; there are at: "
            f"{closest(site, self.sites)}"
        )

    def __repr__(self) -> str:
        """The method, and the sites with their largest k."""
        sites = ", ".join(f"{name} (k={site.k})" for name, site in self.sites.items())
        return f"Effects({self.method} at {sites})"


def _checked_k(k: SiteK, name: str, site: SiteEffects) -> int:
    if k is None:
        return site.k
    number = arguments.as_integer(k)
    bound = site.code.d_sae if site.is_whole else site.k
    if number is None or not 1 <= number <= bound:
        raise InvalidK(
            f"effects at {name} are there for k from 1 to {bound}; got {k!r}; pass "
            "k= to circuits.effects for a larger one"
        )
    return number
