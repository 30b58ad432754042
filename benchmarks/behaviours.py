"""Circuits of two behaviours of Gemma 3 270M, over three SAEs spliced in together.

A verb agrees with its subject across a noun of the other number, and a pronoun with the
name that it stands for; ``behaviour_pairs`` writes 60 pairs of prompts for each. They
are three parts of 20. Three times, one part chooses circuits, and ten pairs of another
one judge them:

1. The circuit of 5% of the nodes that are active in a prompt, at k = 8, 16, 32 and 64,
   beside random nodes, coordinates of the residual stream, neurons of all MLPs and the
   features of untrained SAEs, as many and chosen on the same pairs.
2. Of the first split, curves by size; circuits without errors and with all errors;
   other ways to choose at one k: integrated gradients, attention and norms held, a
   learned mask.
3. What circuits of several k, and of several parts, have in common.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from time import process_time
from typing import Any

import numpy
import torch

import sae_lens_ext as sle
from benchmarks import behaviour_tables
from benchmarks.behaviour_pairs import Behaviour, agreement, pronouns
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
# Where other ways to choose are compared.
METHOD_K = 16
IG_STEPS = 3
MASK_STEPS = 40
# Integrated gradients and masks take many runs of the pairs that choose.
N_FEW = 10
BATCH_SIZE = 10
NEURONS = [f"blocks.{block}.mlp.hook_post" for block in range(18)]

Split = tuple[list[int], list[int]]


def run() -> dict[str, Any]:
    """Print the numbers of all circuits."""
    model = sle.load_bundled(progress=False)
    saes = [demo_sae(model, block) for block in DEMO_SAES]
    results = {}
    for make in BEHAVIOURS:
        behaviour = make(N_PAIRS)
        results[behaviour.name] = Measurements(model, saes, behaviour).run()
    print("\n".join(behaviour_tables.lines(json.loads(json.dumps(results)))))
    return results


class Measurements:
    """All numbers of one behaviour."""

    def __init__(self, model: Any, saes: list[sle.SAE], behaviour: Behaviour) -> None:
        """Compute the effects of all nodes of all pairs.

        Args:
            model: the model.
            saes: the SAEs.
            behaviour: the pairs.
        """
        self.model = model
        self.saes = saes
        self.untrained = [untrained(sae) for sae in saes]
        self.behaviour = behaviour
        self.effects = self._effects(range(N_PAIRS))
        active = {k: float(self.effects.at(k).groupby("row").size().mean()) for k in KS}
        self.active = active
        self.budgets = {k: int(SHARE * active[k]) for k in KS}

    def run(self) -> dict[str, Any]:
        """Measure, and print every number at once."""
        start = process_time()
        clean = self.effects.metric_clean
        corrupted = self.effects.metric_corrupted
        assert corrupted is not None
        facts = {
            "example": self.behaviour.pairs[0],
            "right": float((clean > 0).double().mean()),
            "right_both": float(((clean > 0) & (corrupted < 0)).double().mean()),
            "active": self.active,
            "distinct": {k: len(self.effects.select(k)) for k in KS},
            "budgets": self.budgets,
            "ks": self._overlap_of_ks(),
            "parts": self._overlap_of_parts(),
        }
        self._print(facts)
        circuits = []
        for row in self._circuits():
            self._print(row)
            circuits.append(row)
        seconds = process_time() - start
        print(f"{self.behaviour.name}: {seconds:.0f} CPU seconds", flush=True)
        return {**facts, "circuits": circuits, "cpu_seconds": seconds}

    def _circuits(self) -> Iterator[dict[str, Any]]:
        for number, split in enumerate(splits()):
            chosen_on, judged_on = split
            for k in KS:
                circuit = self._chosen(k, chosen_on)
                for row in self._judged(circuit, judged_on, controls=("random",)):
                    yield {"split": number, **row}
            for row in self._controls(split):
                yield {"split": number, **row}
        first = splits()[0]
        for rows in (self._sizes(first), self._errors(first), self._methods(first)):
            for row in rows:
                yield {"split": 0, **row}

    def _sizes(self, split: Split) -> Iterator[dict[str, Any]]:
        """Curves by size."""
        chosen_on, judged_on = split
        for k in KS:
            sizes = sorted({max(1, round(size * self.budgets[k])) for size in SIZES})
            circuit = self._chosen(k, chosen_on, budget=sizes[-1])
            for row in self._judged(circuit, judged_on, sizes):
                yield {"kind": "curve", **row}

    def _errors(self, split: Split) -> Iterator[dict[str, Any]]:
        """Circuits of features alone, and of features beside every error."""
        chosen_on, judged_on = split
        for k in KS:
            budget = self.budgets[k]
            alone = self._chosen(k, chosen_on, budget=None, errors="none")
            # With every feature, what is missing is what the errors hold.
            for row in self._judged(alone, judged_on, [budget, len(alone)]):
                yield {"kind": "errors: none", **row}
            beside = self._chosen(k, chosen_on, errors="all")
            for row in self._judged(beside, judged_on):
                yield {"kind": "errors: all", **row}

    def _methods(self, split: Split) -> Iterator[dict[str, Any]]:
        """Circuits of one size at one k that were chosen in several ways."""
        chosen_on, judged_on = split
        few = chosen_on[:N_FEW]
        chosen = self.behaviour.some(few)
        budget = self.budgets[METHOD_K]
        by_attribution = self._chosen(METHOD_K, few)
        circuits = {
            "attribution": by_attribution,
            "attention and norms held": self._effects(
                few, freeze=("attention", "norms")
            ).select(METHOD_K, budget=budget),
            "integrated gradients": self._effects(
                few, method="integrated_gradients", steps=IG_STEPS
            ).select(METHOD_K, budget=budget),
            "learned mask": sle.circuits.learn_mask(
                self.model,
                self.saes,
                chosen.pairs,
                metric=chosen.metric(),
                k=METHOD_K,
                budget=budget,
                steps=MASK_STEPS,
            ),
        }
        for method, circuit in circuits.items():
            for row in self._judged(circuit, judged_on):
                shared = circuit.jaccard(by_attribution)
                yield {"kind": f"method: {method}", "shared": shared, **row}

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

    def _controls(self, split: Split) -> Iterator[dict[str, Any]]:
        """Nodes of other kinds, as many as the circuits of every k have.

        Coordinates and neurons have no k; nodes of untrained SAEs are of the largest,
        with errors among them and, because an error can hold it all, without.
        """
        # Controls are chosen in the same call, so both parts are run.
        rows = [*split[0], *split[1]]
        some = self.behaviour.some(rows)
        n_chosen = len(split[0])
        for errors in ("ranked", "none"):
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
                yield row if is_ranked else {"kind": "features alone", **row}

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

    def _print(self, row: dict[str, Any]) -> None:
        print(json.dumps({"behaviour": self.behaviour.name, **row}), flush=True)


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
