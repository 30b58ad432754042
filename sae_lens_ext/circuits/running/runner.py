"""Runs of a model in which only the nodes of circuits are kept.

Circuits and rows of prompts make the rows of batches, so that one run of the model has
several circuits and the memory is that of ``batch_size`` rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.circuits.alignment import Alignment
from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.running.ablated import Ablation, ablated
from sae_lens_ext.circuits.running.keys import (
    BatchWeights,
    KeySpace,
    NodeSet,
    SiteWeights,
)
from sae_lens_ext.circuits.running.sites import FeatureNodes, SiteNodes
from sae_lens_ext.circuits.runs import replaced_logits
from sae_lens_ext.hosts import Site

SiteFunction = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True, eq=False)
class CircuitRunner:
    """Runs circuits of some kind of nodes on the rows of an analysis.

    Attributes:
        analysis: the model, the rows and the metric.
        sites: the nodes of each site, by its name.
        spaces: the numbers of these nodes.
        slots: the slot of every position of every row.
    """

    analysis: Analysis
    sites: Mapping[str, SiteNodes]
    spaces: Mapping[str, KeySpace]
    slots: Int[Tensor, "rows pos"]

    @classmethod
    def of(
        cls,
        analysis: Analysis,
        sites: Mapping[str, SiteNodes],
        alignment: Alignment,
        n_slots: int = 0,
    ) -> "CircuitRunner":
        """A runner of circuits whose nodes have positions of an alignment.

        Args:
            analysis: the model, the rows and the metric.
            sites: the nodes of each site, by its name.
            alignment: what positions of nodes are counted from.
            n_slots: more than the largest slot of any node; that of the rows counts
                anyway.
        """
        slots = alignment.slots(analysis.prompts.clean.lengths.tolist())
        n_slots = max(n_slots, int(slots.max()) + 1)
        spaces = {
            name: KeySpace(n_slots, nodes.n_features) for name, nodes in sites.items()
        }
        return cls(analysis, sites, spaces, slots)

    def values(
        self,
        sets: Sequence[NodeSet],
        rows: Sequence[int],
        clean_logits: Float[Tensor, "batch scored d_vocab"],
        *,
        batch_size: int,
    ) -> Iterator[Float[Tensor, "*rows"]]:
        """The metric of the whole batch for each circuit, one after the other.

        Args:
            sets: the circuits.
            rows: the rows to run them on; the others stay as in the clean run.
            clean_logits: logits of the clean run.
            batch_size: how many rows a run of the model has.
        """
        measurement = self.analysis.measurement
        jobs = [(circuit, row) for circuit in range(len(sets)) for row in rows]
        logits = clean_logits.clone()
        n_done = 0
        for start in range(0, len(jobs), batch_size):
            part = jobs[start : start + batch_size]
            new_logits = self._logits(part, sets)
            for (_, row), of_row in zip(part, new_logits, strict=True):
                logits[row] = of_row
                n_done += 1
                if n_done == len(rows):
                    yield measurement.values(logits)
                    # A metric may hand on what it was given.
                    logits = clean_logits.clone()
                    n_done = 0

    def _logits(
        self, jobs: Sequence[tuple[int, int]], sets: Sequence[NodeSet]
    ) -> Float[Tensor, "jobs scored d_vocab"]:
        """The logits of some rows, each in one circuit."""
        first = jobs[0][0]
        last = jobs[-1][0]
        circuits = torch.tensor([circuit - first for circuit, _ in jobs])
        rows = torch.tensor([row for _, row in jobs])
        weights = {
            name: SiteWeights.of(
                sets[first : last + 1], name, self.spaces[name], nodes.device
            )
            for name, nodes in self.sites.items()
        }
        return self.logits(weights, circuits, rows)

    def logits(
        self,
        weights: Mapping[str, SiteWeights],
        circuits: Int[Tensor, " batch"],
        rows: Int[Tensor, " batch"],
        *,
        with_gradients: bool = False,
    ) -> Float[Tensor, "batch scored d_vocab"]:
        """The logits of a run of some rows, with weights of nodes.

        Args:
            weights: of the nodes of each site, by its name.
            circuits: the circuit of each row of the run.
            rows: the rows of the prompts.
            with_gradients: whether the logits have a gradient, by the weights.
        """
        replacements: dict[Site, list[SiteFunction]] = {}
        readers: dict[Site, list[SiteFunction]] = {}
        sources: dict[str, Tensor] = {}
        for name, nodes in self.sites.items():
            of_batch = BatchWeights(
                weights[name],
                circuits.to(nodes.device),
                self.slots[rows].to(nodes.device),
                rows.to(nodes.device),
            )

            def replace(
                x: Tensor,
                name: str = name,
                nodes: SiteNodes = nodes,
                of_batch: BatchWeights = of_batch,
            ) -> Tensor:
                return nodes.replaced(x, sources.pop(name, None), of_batch)

            replacements.setdefault(nodes.site, []).append(replace)
            if nodes.source is not None:
                keep = partial(_keep, sources, name)
                readers.setdefault(nodes.source, []).append(keep)

        # What a transcoder reads is what circuits at the same site leave there.
        for site, functions in readers.items():
            replacements.setdefault(site, []).extend(functions)
        return replaced_logits(
            self.analysis.host,
            self.analysis.prompts.clean[rows.tolist()],
            {site: partial(_chained, fs) for site, fs in replacements.items()},
            self.analysis.measurement,
            with_gradients=with_gradients,
        )


def feature_sites(
    analysis: Analysis, runs: Runs, ablation: Ablation
) -> dict[str, SiteNodes]:
    """Features and errors of the SAEs of an analysis.

    Args:
        analysis: the model and its SAEs.
        runs: the runs that ablated values are taken from.
        ablation: what nodes outside of a circuit are set to.
    """
    sites: dict[str, SiteNodes] = {}
    for name, place in analysis.placed.items():
        values = ablated(
            ablation,
            runs.clean_codes[name],
            runs.corrupted_codes[name],
            analysis.masks[name],
        )
        sites[name] = FeatureNodes.of(
            place, analysis.masks[name], analysis.ks[name], values
        )
    return sites


def _keep(sources: dict[str, Tensor], name: str, source: Tensor) -> None:
    sources[name] = source


def _chained(functions: Sequence[SiteFunction], x: Tensor) -> Tensor | None:
    """What several functions at one site make of an activation; None for no change."""
    new = None
    for function in functions:
        result = function(x if new is None else new)
        new = new if result is None else result
    return new
