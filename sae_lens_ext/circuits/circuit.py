"""A set of nodes, and what it is worth."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.circuits.alignment import Align, Alignment
from sae_lens_ext.circuits.circuit_nodes import CircuitNodes, checked_nodes
from sae_lens_ext.circuits.faithfulness.call import tested
from sae_lens_ext.circuits.faithfulness.result import Faithfulness
from sae_lens_ext.circuits.measurement import Metric
from sae_lens_ext.circuits.pruning import pruned_nodes
from sae_lens_ext.circuits.running.ablated import Ablation
from sae_lens_ext.circuits.selection import NODE
from sae_lens_ext.circuits.setting import written_site
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import SAEs, saes_by_site

# Rows of prompts in circuits that one run of the model has.
_BATCH_SIZE = 16
_N_DRAWS = 10


class Circuit(CircuitNodes):
    """Nodes at one k, the most important first; made by ``Effects.select``.

    A node does not belong to a row: it is a feature, or the error (-1), at a site and
    at a position that means the same on other prompts.

    Attributes:
        nodes: a pandas DataFrame with the columns ``site``, ``position`` (a number, a
            name, or ``"all"``), ``feature`` and ``score``: the mean effect, or for a
            learned mask the probability of the node.
        ks: the k at each site; None stands for every active feature.
        saes: the SAEs by site.
        alignment: what positions are counted from.
        positions: the positions whose nodes were looked at, as in ``effects``.
        errors: how errors were chosen, as in ``select``.
        method: what scores are from.
    """

    @classmethod
    def of(
        cls,
        nodes: Any,
        saes: SAEs,
        k: int | None = None,
        *,
        align: Align = None,
        positions: Positions = None,
        extrapolate: bool = False,
    ) -> "Circuit":
        """A circuit of nodes that were written down, or read from a file.

        ::

            circuit.nodes.to_csv("circuit.csv", index=False)
            circuit = sle.circuits.Circuit.of(pandas.read_csv("circuit.csv"), sae, k=8)

        Args:
            nodes: a DataFrame with the columns site, feature and, except where nodes
                are everywhere, position, in the order of importance.
            saes: the SAEs, as in ``effects``.
            k: at every site; None means the k that the SAE there was trained at.
            align: ``"start"``, ``"end"`` or positions by name, as in ``select``; None
                means ``"start"``, or ``"end"`` where a position is negative.
            positions: as in ``effects``.
            extrapolate: as in ``effects``.

        Raises:
            InvalidArgument: a table of another form, nodes of other SAEs, or no SAEs.
            UnknownSite: an SAE does not say where it belongs.
            InvalidK: an SAE cannot serve this k.
        """
        by_site = saes_by_site(saes)
        extrapolate = arguments.flag(extrapolate, "extrapolate")
        nodes = checked_nodes(nodes)
        numbers = [
            position for position in nodes["position"] if not isinstance(position, str)
        ]
        if align is None:
            align = "all"
            if numbers:
                align = "end" if min(numbers) < 0 else "start"
        ks = {
            written_site(key): sae.config.checked_k(k, extrapolate=extrapolate)
            for key, sae in by_site.items()
        }
        return cls(
            nodes,
            ks,
            by_site,
            Alignment.of(align, ()),
            positions,
            "ranked",
            "given",
        )

    @property
    def k(self) -> int | dict[str, int | None] | None:
        """The k; a dict by site where sites differ, None for every active feature."""
        different = set(self.ks.values())
        return different.pop() if len(different) == 1 else dict(self.ks)

    def table(self) -> Any:
        """A copy of ``nodes``."""
        return self.nodes.copy()

    def first(self, n_nodes: int) -> "Circuit":
        """The circuit of the first nodes alone.

        Raises:
            InvalidArgument: not a number from 1 to the number of nodes.
        """
        n_nodes = arguments.integer(n_nodes, "n_nodes", at_least=1, at_most=len(self))
        return replace(self, nodes=self.nodes.head(n_nodes))

    def pruned(
        self,
        model: Any,
        clean: Any,
        corrupted: Any = None,
        *,
        metric: Metric,
        budget: int,
        rows: Any = None,
        ablation: Ablation | None = None,
        align: Align = None,
        positions: Positions = None,
    ) -> "Circuit":
        """A smaller circuit, of the nodes that are worth most beside each other.

        ::

            circuit = effects.select(k=8, budget=28)
            small = circuit.pruned(model, clean, corrupted, metric=metric, budget=7)

        The nodes of the circuit come back together while all others stay ablated, and
        the change of the metric is shared out among them, as by
        ``effects(..., method="joint")``. A quarter of them, those that bring the metric
        least towards that of the model, is dropped, or fewer where much would be lost,
        and those that are left are looked at again. A round costs four forward and
        backward passes of the rows, and at small sizes some forward passes.

        What nodes do is how far they bring the metric from that of no node towards that
        of the model, the mean over these rows. By that, the result does at least as
        much as the first ``budget`` nodes; too much counts as more, not as less. Its
        own beginnings need not do anything: they may cut a chain.

        Args:
            model: as in ``splice``.
            clean: prompts to choose nodes on, as in ``effects``; test the result on
                others.
            corrupted: as in ``effects``.
            metric: as in ``effects``, with a gradient.
            budget: how many nodes to keep.
            rows: the prompts that choose; None means all.
            ablation: what nodes outside are set to, as in ``faithfulness``.
            align: as in ``faithfulness``.
            positions: as in ``faithfulness``.

        Returns:
            The circuit; the score of a node is its mean share of the change. Scores of
            0 say that no circuit of this size was found that changes the metric.

        Raises:
            UnknownSite, ShapeMismatch, NonFinite, UnsupportedHost: as in ``effects``.
            InvalidArgument: an invalid option, prompts without the positions of the
                nodes, or a metric that does not depend on the nodes.
        """
        nodes = pruned_nodes(
            self,
            model,
            clean,
            corrupted,
            metric=metric,
            budget=budget,
            rows=rows,
            ablation=ablation,
            align=align,
            positions=positions,
        )
        if positions is None:
            positions = self.positions
        return replace(self, nodes=nodes, positions=positions)

    def jaccard(self, other: "Circuit") -> float:
        """The share of the nodes of either circuit that is in both.

        Nodes are the same where site, position and feature are.

        Raises:
            InvalidArgument: not a circuit, or one whose positions count from elsewhere.
        """
        if not isinstance(other, Circuit):
            raise InvalidArgument(
                "other must be a circuit, such as effects.select(k=8, budget=20); got "
                f"an object of type {type(other).__name__}"
            )
        here = self.alignment.described()
        there = other.alignment.described()
        if here != there:
            raise InvalidArgument(
                f"the positions of these circuits count from different places, {here} "
                f"and {there}; select both with the same align="
            )
        return jaccard(self.nodes, other.nodes)

    def faithfulness(
        self,
        model: Any,
        clean: Any,
        corrupted: Any = None,
        *,
        metric: Metric,
        ablation: Ablation | None = None,
        budgets: Sequence[int] | None = None,
        controls: Sequence[str] = ("random", "coordinates"),
        neurons: Sequence[str] = (),
        other_saes: Sequence[SAEs] = (),
        rows: Sequence[int] | None = None,
        chosen_on: Sequence[int] | None = None,
        align: Align = None,
        positions: Positions = None,
        n_draws: int = _N_DRAWS,
        seed: int = 0,
        batch_size: int = _BATCH_SIZE,
    ) -> Faithfulness:
        """How much of the metric the circuit gives, beside what other nodes give.

        ::

            circuit = effects.select(k=8, budget=64)
            result = circuit.faithfulness(model, clean, corrupted, metric=metric)
            result.table()

        To run a circuit is to give every node outside of it, at every site, its ablated
        value, from the first site to the last; what later sites encode is what earlier
        ones have left. Nodes are those of this k. Where all active ones are in the
        circuit, and ``ablation`` is not ``"mean"``, the run is the model's own.

        ============ ==================================================================
        ``ablation`` a node outside of the circuit, active or not, is set to
        ============ ==================================================================
        zero         not active, and for an error zero: what is left with no node at
                     all are the constants of the SAE
        mean         its mean over the looked-at tokens of the corrupted rows, or of the
                     clean rows without any
        resample     its value in the corrupted row, at the same position
        ============ ==================================================================

        =============== ===============================================================
        control         nodes, in circuits of the same sizes
        =============== ===============================================================
        ``random``      active features and errors in the place of features and errors,
                        site by site, in ``n_draws`` draws
        ``coordinates`` coordinates of the activations at the same sites
        ``splits``      those chosen by effects on one half of the rows, tested on the
                        other half, in ``n_draws`` ways
        ``neurons``     coordinates at the sites of this list, such as the activations
                        of an MLP's neurons
        ``other_saes``  those of other SAEs, such as of another seed
        =============== ===============================================================

        Coordinates, neurons and nodes of other SAEs are chosen by their effects on the
        rows ``chosen_on``: name those that the circuit was chosen on. By default they
        are the tested rows themselves, which flatters them.

        Args:
            model: as in ``splice``.
            clean: tokens, or a list of pairs, as in ``effects``; other prompts than
                those that the circuit was chosen on are a fair test.
            corrupted: as in ``effects``.
            metric: as in ``effects``; it need not have a gradient where no control
                needs effects.
            ablation: see above; None means ``"resample"`` with corrupted rows and
                ``"zero"`` without, which is what effects compare with.
            budgets: the sizes of circuits, of which each is the beginning of the next
                one; None means 1, 2, 4, ... and that of the circuit.
            controls: which of ``random``, ``coordinates`` and ``splits``.
            neurons: names of sites, in any spelling that the model's host knows.
            other_saes: SAEs for the same sites, each as in ``splice``.
            rows: the rows to test on; None means all.
            chosen_on: the rows that controls are chosen on; None means those of the
                test.
            align: positions by name in these prompts, where they differ from those that
                the circuit was chosen on.
            positions: whose nodes there are; None means as in ``effects``. Other tokens
                stay as they are.
            n_draws: how many random circuits, and splits.
            seed: of the draws, the splits and the bands.
            batch_size: how many rows, each in one circuit, a run of the model has.

        Raises:
            UnknownSite, ShapeMismatch, NonFinite, UnsupportedHost: as in ``effects``.
            InvalidArgument: an invalid option, or a metric that does not depend on the
                nodes.

        Source: Wang et al. 2022 (faithfulness, completeness); Marks et al. 2024 (their
            normalised form, for features and errors).
        """
        return tested(
            self,
            model,
            clean,
            corrupted,
            metric=metric,
            rows=rows,
            chosen_on=chosen_on,
            align=align,
            positions=positions,
            ablation=ablation,
            budgets=budgets,
            controls=controls,
            neurons=neurons,
            other_saes=other_saes,
            n_draws=n_draws,
            seed=seed,
            batch_size=batch_size,
        )

    def __len__(self) -> int:
        """The number of nodes."""
        return len(self.nodes)

    def __repr__(self) -> str:
        """How many nodes, at which k and sites."""
        sites = ", ".join(self.nodes["site"].unique())
        return f"Circuit({len(self)} nodes at k={self.k}, at {sites})"


def jaccard(first: Any, second: Any) -> float:
    """The share of the nodes of either table that is in both."""
    n_common = len(first[NODE].merge(second[NODE], on=NODE))
    return n_common / (len(first) + len(second) - n_common)
