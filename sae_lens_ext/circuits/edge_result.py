"""The edges between nodes at every k, and the tables of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.circuits.direct import METRIC, TOKENS, Contributions, Target
from sae_lens_ext.circuits.graphs import Graph
from sae_lens_ext.circuits.graphs.build import Key, nodes_of
from sae_lens_ext.circuits.node_effects import EffectsK
from sae_lens_ext.circuits.result import Effects
from sae_lens_ext.errors import InvalidArgument, InvalidK

Array = numpy.ndarray
Sources = Literal["chosen", "all"]


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges between nodes, at every k; made by ``circuits.edges``.

    Attributes:
        effects: the effects of all nodes on the metric, from the same runs.
        targets: the nodes that edges lead to: the metric of every row, and then the
            chosen features and errors.
        activations: that of each target in the clean run; the metric's value for the
            metric, and NaN for an error.
        slopes: the derivative of the metric by the activation of each target; 1 for the
            metric, and for an error, whose edges are in units of the metric.
        contributions: what earlier nodes give to each target.
        nodes: the chosen nodes, a DataFrame as of ``Effects.at``. One that is active in
            the corrupted run alone has edges out of it and none into it.
        sites: names of the sites, in the order in which the model computes them.
        token_effects: the effect of each token's embedding on the metric, whole.
        tokens: the text of every token of every row.
        model: name of the model.
        metrics: the metric of each row, in words.
    """

    effects: Effects
    targets: Sequence[Target]
    activations: Array
    slopes: Array
    contributions: Sequence[Contributions]
    nodes: Any
    sites: Sequence[str]
    token_effects: Float[Tensor, "batch pos"]
    tokens: Sequence[Sequence[str]]
    model: str
    metrics: Sequence[str]

    def at(self, k: EffectsK = None) -> Any:
        """The edges at one k, as a pandas DataFrame with one row per edge.

        =================== ============================================================
        column              meaning
        =================== ============================================================
        ``row``             of the batch
        ``source_site``     name of the site, or ``"tokens"``
        ``source_position`` in the text of the row
        ``source_feature``  number of the feature; -1 is the error, or the token
        ``target_site``     name of the site, or ``"metric"``
        ``target_position`` in the text of the row
        ``target_feature``  number of the feature; -1 is the error, or the metric
        ``preactivation``   what the source gives to the pre-activation of the target;
                            NaN where that is not a feature
        ``effect``          the same in units of the metric: times the derivative of the
                            metric by the activation of the target
        =================== ============================================================

        Pairs of nodes without a path between them are not in the table.

        Args:
            k: features per token, as in ``Effects.at``.

        Raises:
            InvalidK: not a k that was encoded; or edges into errors were not computed
                at this k.
            UnknownSite: a site of the mapping is not one of these.
        """
        pandas = require("pandas", "Edges.at")
        ks = self.effects.ks_at(k)
        self._check_errors(ks)
        is_there = numpy.array([self._is_there(target, ks) for target in self.targets])

        parts = [self._columns(part, ks, is_there) for part in self.contributions]
        columns = {}
        for name in parts[0]:
            columns[name] = numpy.concatenate([part[name] for part in parts])

        # By target; the sort keeps sources of one target in the order of the sites.
        order = columns.pop("target").argsort(kind="stable")
        for name, column in columns.items():
            columns[name] = column[order]
        frame = pandas.DataFrame(columns)
        frame.attrs = {"k": k}
        return frame

    def graph(
        self,
        k: EffectsK = None,
        *,
        row: int = 0,
        sources: Sources = "chosen",
    ) -> Graph:
        """The edges of one row at one k, as a graph with its nodes.

        The nodes are the targets, every token, and the metric.

        Args:
            k: features per token, as in ``at``.
            row: of the batch.
            sources: ``"chosen"`` for edges between these nodes only; ``"all"`` for
                every feature and error that has an edge to one of them, to prune the
                graph afterwards by what reaches the metric.

        Raises:
            InvalidK, UnknownSite: as in ``at``.
            InvalidArgument: the batch has no such row, or invalid ``sources``.
        """
        arguments.choice(sources, "sources", ("chosen", "all"))
        number = arguments.as_integer(row)
        if number is None or not 0 <= number < len(self.tokens):
            raise InvalidArgument(
                f"row must be one of the {len(self.tokens)} rows of the batch, from 0 "
                f"on; got {row!r}"
            )
        table = self.at(k)
        table = table[table["row"] == number]
        effects = self.effects.at(k)
        effects = effects[effects["row"] == number]

        nodes_of_row = self.nodes[self.nodes["row"] == number]
        chosen = _keys(nodes_of_row)
        if sources == "all":
            chosen |= _keys(table, "source_")
        ks = self.effects.ks_at(k)
        of_row = [
            target
            for target in self.targets
            if target.row == number and self._is_there(target, ks)
        ]
        (metric,) = (target for target in of_row if target.site == METRIC)
        value = float(self.activations[number])

        tokens = self.tokens[number]
        nodes = nodes_of(
            effects,
            chosen,
            {target.key for target in of_row},
            self._feature_activations(number),
            self.token_effects[number, : len(tokens)].tolist(),
            tokens,
            self.sites,
            (metric.position, value),
        )
        corrupted = self.effects.metric_corrupted
        if corrupted is not None:
            of_rows = corrupted.expand(len(self.tokens))
            corrupted = float(of_rows[number])
        return Graph(
            nodes=tuple(nodes.nodes),
            edges=tuple(nodes.edges_of(table)),
            k={site: ks[site] for site in self.sites},
            sites=tuple(self.sites),
            tokens=tuple(tokens),
            model=self.model,
            metric=self.metrics[number],
            metric_clean=value,
            metric_corrupted=corrupted,
            freeze=self.effects.freeze,
            row=number,
        )

    def _feature_activations(self, row: int) -> dict[Key, float]:
        """Activations of the features that are active in the clean run of a row."""
        activations = {}
        for site, effects in self.effects.sites.items():
            values = effects.code.values[row]
            positions, ranks = (values > 0).nonzero(as_tuple=True)
            features = effects.code.indices[row][positions, ranks].tolist()
            numbers = values[positions, ranks].tolist()
            rows = zip(positions.tolist(), features, numbers, strict=True)
            for position, feature, number in rows:
                key = (site, position, feature)
                activations[key] = number
        return activations

    def _is_there(self, target: Target, ks: Mapping[str, int]) -> bool:
        if target.site == METRIC:
            return True
        return target.is_there(self._within(target.site, ks[target.site]))

    def _within(self, site: str, k: int) -> int:
        """A k of a site, at most the largest; every larger one has the same nodes."""
        return min(k, self.effects.sites[site].k)

    def _check_errors(self, ks: Mapping[str, int]) -> None:
        available: dict[str, set[int]] = {}
        for target in self.targets:
            if target.k is not None:
                of_site = available.setdefault(target.site, set())
                of_site.add(target.k)

        for site, of_site in available.items():
            k = self._within(site, ks[site])
            if k not in of_site:
                raise InvalidK(
                    f"edges into errors at {site} were computed at k="
                    f"{', '.join(map(str, sorted(of_site)))}; got {ks[site]}: pass "
                    "ks=, the values of k to compute them at, to circuits.edges"
                )

    def _columns(
        self,
        part: Contributions,
        ks: Mapping[str, int],
        is_there: Array,
    ) -> dict[str, Array]:
        """The columns of the edges from one source, and the numbers of targets."""
        columns = part.at(ks.get(part.source, 0))
        is_edge = is_there[columns["row"]] & (columns["effect"] != 0)
        target = columns["row"][is_edge]
        change = columns["effect"][is_edge]

        source_site = numpy.full(len(target), part.source, dtype=object)
        target_feature = self._fields["feature"][target]
        preactivation = numpy.where(target_feature >= 0, change, numpy.nan)
        return {
            "target": target,
            "row": self._fields["row"][target],
            "source_site": source_site,
            "source_position": columns["position"][is_edge],
            "source_feature": columns["feature"][is_edge],
            "target_site": self._fields["site"][target],
            "target_position": self._fields["position"][target],
            "target_feature": target_feature,
            "preactivation": preactivation,
            "effect": change * self.slopes[target],
        }

    @cached_property
    def _fields(self) -> dict[str, Array]:
        """The fields of all targets as arrays."""
        fields = {}
        for name in ("row", "site", "position", "feature"):
            values = [getattr(target, name) for target in self.targets]
            dtype = object if name == "site" else int
            fields[name] = numpy.array(values, dtype=dtype)
        return fields

    def __repr__(self) -> str:
        """How many targets, and the sites with their largest k."""
        n_nodes = sum(target.site != METRIC for target in self.targets)
        sites = ", ".join([TOKENS, *self.effects.sites])
        return f"Edges(into {n_nodes} nodes and the metric, from {sites})"


def _keys(table: Any, prefix: str = "") -> set[Key]:
    """The nodes that a table names."""
    columns = (
        table[f"{prefix}{name}"].tolist() for name in ("site", "position", "feature")
    )
    return set(zip(*columns, strict=True))
