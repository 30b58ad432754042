"""Circuits of two behaviours of Gemma 3 270M, over three SAEs spliced in together.

A verb agrees with its subject across a noun of the other number, and a pronoun with the
name that it stands for; ``behaviour_pairs`` writes 60 pairs of prompts for each. They
are three parts of 20. Three times, one part chooses circuits, and ten pairs of another
one judge them:

1. The circuit of 5% of the nodes that are active in a prompt, at k = 8, 16, 32 and 64,
   beside random nodes, coordinates of the residual stream, neurons of all MLPs and the
   features of untrained SAEs, as many and chosen on the same pairs by the same effects
   (``method="joint"``); and the circuit of that size which ``Circuit.pruned`` makes of
   one that is four times as large.
2. Of the first split, curves by size; circuits without errors and with all errors;
   other ways to choose as many nodes from the same pairs: attribution, integrated
   gradients of each site, attention and norms held, a learned mask.
3. What circuits of several k, and of several parts, have in common.

Every part of this is kept as soon as it is there, and a run that was interrupted goes
on with the next one.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import combinations
from time import process_time
from typing import Any

import numpy
import torch

import sae_lens_ext as sle
from benchmarks import behaviour_tables
from benchmarks.behaviour_pairs import Behaviour, agreement, pronouns
from benchmarks.unfinished import Parts, unfinished_folder
from sae_lens_ext.circuits import Circuit, Effects
from sae_lens_ext.demo import DEMO_SAES, demo_sae

BEHAVIOURS = (agreement, pronouns)
KS = (8, 16, 32, 64)
N_PAIRS = 60
N_PARTS = 3
N_JUDGES = 10
# Of the nodes that are active in one prompt.
SHARE = 0.05
# Of the budget that this gives, for curves.
SIZES = (0.5, 1, 2, 4)
# How many times as large circuits are before they are pruned.
LARGER = 4
# Points on the path by which circuits are chosen.
STEPS = 8
# Where other ways to choose are compared.
METHOD_K = 16
MASK_STEPS = 100
BATCH_SIZE = 40
NEURONS = [f"blocks.{block}.mlp.hook_post" for block in range(18)]

Split = tuple[list[int], list[int]]


def run() -> dict[str, Any]:
    """Print the numbers of all circuits."""
    # A core that works alone waits for no other.
    torch.set_num_threads(1)
    model = sle.load_bundled(progress=False)
    saes = [demo_sae(model, block) for block in DEMO_SAES]
    folder = unfinished_folder("behaviours")
    results = {}
    for make in BEHAVIOURS:
        behaviour = make(N_PAIRS)
        parts = Parts(folder / behaviour.name)
        results[behaviour.name] = Measurements(model, saes, behaviour, parts).run()
    print("\n".join(behaviour_tables.lines(results)))
    shutil.rmtree(folder)
    return results


class Measurements:
    """All numbers of one behaviour."""

    def __init__(
        self, model: Any, saes: list[sle.SAE], behaviour: Behaviour, parts: Parts
    ) -> None:
        """Measure nothing yet.

        Args:
            model: the model.
            saes: the SAEs.
            behaviour: the pairs.
            parts: what was measured before.
        """
        self.model = model
        self.saes = saes
        self.untrained = [untrained(sae) for sae in saes]
        self.behaviour = behaviour
        self.parts = parts

    @cached_property
    def effects(self) -> Effects:
        """The effects of all nodes of all pairs, by which circuits are chosen."""
        return self._effects(range(N_PAIRS), method="joint", steps=STEPS)

    @cached_property
    def attribution(self) -> Effects:
        """The effects of all nodes of all pairs to first order."""
        return self._effects(range(N_PAIRS))

    @cached_property
    def budgets(self) -> dict[int, int]:
        """The sizes of circuits, by k."""
        active = self.parts.get("active", self._active)
        return {int(k): int(SHARE * number) for k, number in active.items()}

    def run(self) -> dict[str, Any]:
        """Measure what was not measured yet."""
        facts = self.parts.get("facts", self._facts)
        circuits = []
        seconds = facts.pop("cpu_seconds")
        for name, measure in self._measures():
            part = self.parts.get(name, partial(_timed, measure))
            seconds += part["cpu_seconds"]
            circuits.extend(part["rows"])
            for row in part["rows"]:
                print(json.dumps({"behaviour": self.behaviour.name, **row}), flush=True)
        print(f"{self.behaviour.name}: {seconds:.0f} CPU seconds", flush=True)
        return {**facts, "circuits": circuits, "cpu_seconds": seconds}

    def _facts(self) -> dict[str, Any]:
        start = process_time()
        clean = self.effects.metric_clean
        corrupted = self.effects.metric_corrupted
        assert corrupted is not None
        distinct = {k: len(self.attribution.select(k)) for k in KS}
        return {
            "example": self.behaviour.pairs[0],
            "right": float((clean > 0).double().mean()),
            "right_both": float(((clean > 0) & (corrupted < 0)).double().mean()),
            "active": self.parts.get("active", self._active),
            "distinct": distinct,
            "budgets": self.budgets,
            "nodes": self._nodes(),
            "ks": self._overlap_of_ks(),
            "parts": self._overlap_of_parts(),
            "cpu_seconds": process_time() - start,
        }

    def _active(self) -> dict[int, float]:
        """The mean number of nodes that are active in a pair, by k.

        They are those of the clean and of the corrupted run, and the errors.
        """
        return {
            k: float(self.attribution.at(k).groupby("row").size().mean()) for k in KS
        }

    def _measures(self) -> Iterator[tuple[str, Callable[[], Iterator[dict[str, Any]]]]]:
        """What is measured, in parts with names."""
        for number, split in enumerate(splits()):
            for k in KS:
                yield f"split-{number}-{k}", partial(self._split, number, split, k)
                yield f"pruned-{number}-{k}", partial(self._pruned, number, split, k)
            for errors in ("ranked", "none"):
                name = f"split-{number}-controls-{errors}"
                yield name, partial(self._controls, number, split, errors)
        first = splits()[0]
        for k in KS:
            yield f"sizes-{k}", partial(self._sizes, first, k)
            yield f"errors-{k}", partial(self._errors, first, k)
        for method in METHODS:
            yield f"method-{method}", partial(self._method, first, method)

    def _split(self, number: int, split: Split, k: int) -> Iterator[dict[str, Any]]:
        """The circuit of one split at one k, and random ones."""
        chosen_on, judged_on = split
        circuit = self._chosen(k, chosen_on)
        for row in self._judged(circuit, judged_on, controls=("random",)):
            yield {"split": number, **row}

    def _pruned(self, number: int, split: Split, k: int) -> Iterator[dict[str, Any]]:
        """A circuit of the same size that was pruned from a larger one."""
        chosen_on, judged_on = split
        larger = self._chosen(k, chosen_on, budget=LARGER * self.budgets[k])
        some = self.behaviour.some(chosen_on)
        circuit = larger.pruned(
            self.model, some.pairs, metric=some.metric(), budget=self.budgets[k]
        )
        for row in self._judged(circuit, judged_on):
            yield {"split": number, "kind": behaviour_tables.PRUNED, **row}

    def _sizes(self, split: Split, k: int) -> Iterator[dict[str, Any]]:
        """A curve by size."""
        chosen_on, judged_on = split
        sizes = sorted({max(1, round(size * self.budgets[k])) for size in SIZES})
        circuit = self._chosen(k, chosen_on, budget=sizes[-1])
        for row in self._judged(circuit, judged_on, sizes):
            yield {"split": 0, "kind": "curve", **row}

    def _errors(self, split: Split, k: int) -> Iterator[dict[str, Any]]:
        """Circuits of features alone, and of features beside every error."""
        chosen_on, judged_on = split
        budget = self.budgets[k]
        alone = self._chosen(k, chosen_on, budget=None, errors="none")
        # With every feature, what is missing is what the errors hold.
        for row in self._judged(alone, judged_on, [budget, len(alone)]):
            yield {"split": 0, "kind": "errors: none", **row}
        beside = self._chosen(k, chosen_on, errors="all")
        for row in self._judged(beside, judged_on):
            yield {"split": 0, "kind": "errors: all", **row}

    def _method(self, split: Split, method: str) -> Iterator[dict[str, Any]]:
        """A circuit of one size at one k that was chosen in one of several ways."""
        chosen_on, judged_on = split
        circuit = self._by_method(method, chosen_on)
        shared = circuit.jaccard(self._chosen(METHOD_K, chosen_on))
        for row in self._judged(circuit, judged_on):
            yield {"split": 0, "kind": f"method: {method}", "shared": shared, **row}

    def _by_method(self, method: str, rows: Sequence[int]) -> Circuit:
        budget = self.budgets[METHOD_K]
        if method == "learned mask":
            chosen = self.behaviour.some(rows)
            return sle.circuits.learn_mask(
                self.model,
                self.saes,
                chosen.pairs,
                metric=chosen.metric(),
                k=METHOD_K,
                budget=budget,
                steps=MASK_STEPS,
            )
        if method == "joint":
            return self._chosen(METHOD_K, rows)
        if method == "attribution":
            return self.attribution.select(METHOD_K, rows=rows, budget=budget)
        return self._effects(rows, **METHODS[method]).select(METHOD_K, budget=budget)

    def _effects(self, rows: Sequence[int], **options: Any) -> Effects:
        some = self.behaviour.some(rows)
        return sle.circuits.effects(
            self.model, self.saes, some.pairs, metric=some.metric(), **options
        )

    def _chosen(self, k: int, rows: Sequence[int], **options: Any) -> Circuit:
        return self.effects.select(
            k, rows=rows, **{"budget": self.budgets[k], **options}
        )

    def _judged(
        self,
        circuit: Circuit,
        rows: Sequence[int],
        sizes: Sequence[int] | None = None,
        controls: Sequence[str] = (),
    ) -> Iterator[dict[str, Any]]:
        """A circuit on other pairs than those that have chosen it."""
        some = self.behaviour.some(rows)
        result = circuit.faithfulness(
            self.model,
            some.pairs,
            metric=some.metric(),
            budgets=sizes or [len(circuit)],
            controls=controls,
            # Every split has another one.
            n_draws=1,
            seed=min(rows),
            batch_size=BATCH_SIZE,
        )
        yield from self._rows(circuit, result)

    def _controls(
        self, number: int, split: Split, errors: str
    ) -> Iterator[dict[str, Any]]:
        """Nodes of other kinds, as many as the circuits of every k have.

        Coordinates and neurons have no k; nodes of untrained SAEs are of the largest,
        with errors among them and, because an error can hold it all, without.
        """
        # Controls are chosen in the same call, so both parts are run.
        rows = [*split[0], *split[1]]
        some = self.behaviour.some(rows)
        n_chosen = len(split[0])
        is_ranked = errors == "ranked"
        circuit = self._chosen(KS[-1], split[0], errors=errors)
        result = circuit.faithfulness(
            self.model,
            some.pairs,
            metric=some.metric(),
            budgets=sorted(set(self.budgets.values())),
            controls=("coordinates",) if is_ranked else (),
            neurons=NEURONS if is_ranked else (),
            other_saes=[self.untrained],
            rows=range(n_chosen, len(rows)),
            chosen_on=range(n_chosen),
            batch_size=BATCH_SIZE,
        )
        for row in self._rows(circuit, result):
            kind = {} if is_ranked else {"kind": behaviour_tables.ALONE}
            yield {"split": number, **kind, **row}

    def _rows(self, circuit: Circuit, result: Any) -> Iterator[dict[str, Any]]:
        for row in result.table().to_dict("records"):
            yield {"k": circuit.k, **{column: row[column] for column in COLUMNS}}

    def _overlap_of_ks(self) -> list[dict[str, float]]:
        """What circuits of one size at several k share, and what random ones do."""
        by_k = sle.circuits.circuit_by_k(
            self.effects, KS, budget=self.budgets[METHOD_K]
        )
        return by_k.overlap().to_dict("records")

    def _overlap_of_parts(self) -> dict[int, float]:
        """The mean Jaccard index of circuits that two parts have chosen, by k."""
        means = {}
        for k in KS:
            circuits = [self._chosen(k, chosen_on) for chosen_on, _ in splits()]
            shares = [one.jaccard(other) for one, other in combinations(circuits, 2)]
            means[k] = float(numpy.mean(shares))
        return means

    def _nodes(self) -> dict[int, list[list[Any]]]:
        """The circuit that all pairs choose, by k: site, position, feature, effect."""
        nodes = {}
        for k in KS[:2]:
            table = self._chosen(k, range(N_PAIRS)).table()
            nodes[k] = table.astype({"score": float}).to_numpy().tolist()
        return nodes


def _timed(measure: Callable[[], Iterator[dict[str, Any]]]) -> dict[str, Any]:
    start = process_time()
    rows = list(measure())
    return {"rows": rows, "cpu_seconds": process_time() - start}


# By name, the options of ``effects``, where they are all that it takes.
METHODS: dict[str, dict[str, Any]] = {
    "joint": {},
    "attribution": {},
    "attention and norms held": {"freeze": ("attention", "norms")},
    "integrated gradients": {"method": "integrated_gradients"},
    "learned mask": {},
}
COLUMNS = (
    "nodes",
    "budget",
    "n_nodes",
    "n_errors",
    "faithfulness",
    "completeness",
    "metric_empty",
    "metric_model",
)


def splits() -> list[Split]:
    """The pairs that choose and those that judge; every part does each once."""
    shuffled = numpy.random.default_rng(0).permutation(N_PAIRS)
    parts = [sorted(part.tolist()) for part in numpy.array_split(shuffled, N_PARTS)]
    judges = [part[:N_JUDGES] for part in (*parts[1:], parts[0])]
    return list(zip(parts, judges, strict=True))


def untrained(sae: sle.SAE) -> sle.SAE:
    """An SAE of the same shape and constants, whose directions are random."""
    generator = torch.Generator().manual_seed(0)
    state = sae.state_dict()
    directions = torch.randn(state["W_dec"].shape, generator=generator)
    directions = torch.nn.functional.normalize(directions, dim=1)
    other = sle.SAE(sae.config, generator=generator)
    other.load_state_dict(state)
    with torch.no_grad():
        other.W_dec.copy_(directions)
        other.W_enc.copy_(directions.T)
        other.b_enc.zero_()
    return other.eval()
