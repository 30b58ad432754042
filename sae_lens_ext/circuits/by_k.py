"""How a circuit changes with k: which nodes live at which k, and what is by chance."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext._optional import require
from sae_lens_ext.circuits.alignment import Align
from sae_lens_ext.circuits.band import band
from sae_lens_ext.circuits.circuit import Circuit, jaccard
from sae_lens_ext.circuits.result import Effects
from sae_lens_ext.circuits.selection import NODE, Errors, checked_rows, ranked
from sae_lens_ext.circuits.table import ERROR
from sae_lens_ext.errors import InvalidArgument, InvalidK

Array = numpy.ndarray


@dataclass(frozen=True, eq=False)
class CircuitByK:
    """The circuits of one rule at several k; made by ``circuit_by_k``.

    Attributes:
        circuits: the circuit at each k.
        births: every node at the largest k, with the smallest rank that it has anywhere
            in the column ``rank``: it is a node at every k above.
        n_random: the number of pairs of random circuits that a null is taken from.
        seed: of these.
    """

    circuits: Mapping[int, Circuit]
    births: Any
    n_random: int
    seed: int

    def table(self) -> Any:
        """A pandas DataFrame with one row per node of any of the circuits.

        ============ ===================================================================
        column       meaning
        ============ ===================================================================
        ``site``     site of the node
        ``position`` its position
        ``feature``  its feature; -1 for the error
        ``rank``     its smallest rank in any row: it is a node at every k above; -1 for
                     the error, which is one at every k
        ``first_k``  the smallest k whose circuit has it
        ``last_k``   the largest
        ``n_ks``     how many of the circuits have it
        ``survival`` the share of the circuits at a k above its rank that have it
        ============ ===================================================================
        """
        pandas = require("pandas", "CircuitByK.table")
        parts = [
            circuit.nodes[NODE].assign(k=k) for k, circuit in self.circuits.items()
        ]
        nodes = pandas.concat(parts).groupby(NODE, sort=False)["k"]
        table = nodes.agg(first_k="min", last_k="max", n_ks="count").reset_index()
        table.insert(3, "rank", table.merge(self.births, on=NODE, how="left")["rank"])
        ks = numpy.array(list(self.circuits))
        n_possible = (ks > table["rank"].to_numpy()[:, None]).sum(axis=1)
        table["survival"] = table["n_ks"] / n_possible
        return table

    def overlap(self) -> Any:
        """A pandas DataFrame with one row per pair of k: how much circuits share.

        Its columns are k, other_k, jaccard (the share of the nodes of either circuit
        that is in both), null (its mean between two random circuits), null_low,
        null_high (their 95% band) and p (the share of random pairs that have at least
        as much in common). A random circuit has as many errors and features at each
        site as that of its k, drawn among the nodes at that k.
        """
        pandas = require("pandas", "CircuitByK.overlap")
        generator = numpy.random.default_rng(self.seed)
        random = {k: self._random(k, generator) for k in self.circuits}
        rows = []
        for k, other_k in combinations(self.circuits, 2):
            share = jaccard(self.circuits[k].nodes, self.circuits[other_k].nodes)
            both = (random[k] & random[other_k]).sum(axis=1)
            either = (random[k] | random[other_k]).sum(axis=1)
            null = both / either
            low, high = band(null)
            rows.append(
                {
                    "k": k,
                    "other_k": other_k,
                    "jaccard": share,
                    "null": null.mean(),
                    "null_low": low,
                    "null_high": high,
                    "p": (1 + (null >= share).sum()) / (1 + len(null)),
                }
            )
        return pandas.DataFrame(rows)

    def _random(self, k: int, generator: numpy.random.Generator) -> Array:
        """Random circuits at one k as masks over ``births``, ``[draws, nodes]``."""
        births = self.births
        nodes = self.circuits[k].nodes
        masks = numpy.zeros((self.n_random, len(births)), dtype=bool)
        is_active = (births["rank"] < k).to_numpy()
        for (site, is_error), of_kind in _by_kind(births):
            (pool,) = (of_kind & is_active).nonzero()
            in_circuit = (nodes["site"] == site) & (
                (nodes["feature"] == ERROR) == is_error
            )
            for mask in masks:
                mask[generator.permutation(pool)[: int(in_circuit.sum())]] = True
        return masks

    def __repr__(self) -> str:
        """The ks, and the number of nodes at each."""
        sizes = ", ".join(f"{k}: {len(c)} nodes" for k, c in self.circuits.items())
        return f"CircuitByK({sizes})"


def circuit_by_k(
    effects: Effects,
    ks: Iterable[int],
    *,
    budget: int | None = None,
    threshold: float | None = None,
    cumulative: float | None = None,
    align: Align = None,
    errors: Errors = "ranked",
    rows: Sequence[int] | None = None,
    n_random: int = 200,
    seed: int = 0,
) -> CircuitByK:
    """The circuits that one rule chooses at several k, and what they have in common.

    ::

        by_k = sle.circuits.circuit_by_k(effects, [4, 8, 16, 32], budget=50)
        by_k.table()  # which nodes live at which k
        by_k.overlap()  # what circuits share, and what random ones do

    Two circuits of one behaviour may both be faithful and share little, and two random
    ones of the same few nodes share much: an overlap means something next to its null.

    Args:
        effects: of ``circuits.effects``.
        ks: values of k.
        budget: as in ``Effects.select``, and so are the others.
        threshold: as there.
        cumulative: as there.
        align: as there.
        errors: as there.
        rows: as there.
        n_random: how many pairs of random circuits to compare.
        seed: of these.

    Raises:
        InvalidK: a k that was not encoded; or fewer than two different ones.
        InvalidArgument: as in ``Effects.select``.
    """
    if not isinstance(effects, Effects):
        raise InvalidArgument(
            "circuit_by_k needs the effects at every k that circuits.effects returns; "
            f"got an object of type {type(effects).__name__}"
        )
    numbers = arguments.as_integers(ks)
    if numbers is None or len(set(numbers)) < 2:
        raise InvalidK(f"ks must be at least two values of k; got {described(ks)}")
    n_random = arguments.positive_int(n_random, "n_random")
    seed = arguments.integer(seed, "seed", at_least=0)

    circuits = {
        k: effects.select(
            k,
            budget=budget,
            threshold=threshold,
            cumulative=cumulative,
            align=align,
            errors=errors,
            rows=rows,
        )
        for k in sorted(set(numbers))
    }
    largest = max(circuits)
    alignment = circuits[largest].alignment
    lengths = effects.setting.lengths
    births = ranked(
        effects.at(largest),
        alignment,
        lengths,
        rows=checked_rows(rows, len(lengths)),
        errors=errors,
    )
    return CircuitByK(circuits, births, n_random, seed)


def _by_kind(nodes: Any) -> Iterator[tuple[tuple[str, bool], Array]]:
    """Masks of the features, and of the errors, of each site."""
    is_error = (nodes["feature"] == ERROR).to_numpy()
    for site in nodes["site"].unique():
        is_here = (nodes["site"] == site).to_numpy()
        yield (site, False), is_here & ~is_error
        yield (site, True), is_here & is_error
