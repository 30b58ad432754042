"""What integrated gradients miss of the change that they share out.

Their effects add up to the change of the metric along a path as exactly as the points
on it resolve the change. On Gemma 3 270M, for the pairs of two behaviours and the path
of each of the package's SAEs: 8 gradients where ``circuits.effects`` takes them, 8 at
the points of Gauss and Legendre, and 10 at the beginnings of equal parts, as in
Marks et al. 2024. The pairs of seed 0 are those on which the first was chosen.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import sae_lens_ext as sle
from benchmarks.behaviour_pairs import Behaviour, agreement, pronouns
from sae_lens_ext.circuits.analysis import Analysis
from sae_lens_ext.circuits.integrated import Path, mean_gradient
from sae_lens_ext.circuits.nodes import baseline
from sae_lens_ext.circuits.quadrature import gauss_points
from sae_lens_ext.demo import DEMO_SAES, demo_sae

STEPS = 8
LEFT_STEPS = 10
N_PAIRS = 24
SEEDS = (0, 1)
BEHAVIOURS = (agreement, pronouns)

Rule = Callable[[], Iterable[tuple[float, float]]]


class Case(NamedTuple):
    """A behaviour, and where its paths begin."""

    name: str
    behaviour: Behaviour
    has_corrupted: bool = True


def rows(model: Any) -> list[dict[str, Any]]:
    """The gaps of every case, site and rule, in percent; prints them."""
    saes = [demo_sae(model, block) for block in DEMO_SAES]
    cases = [
        Case(f"{make.__name__}, seed {seed}", make(N_PAIRS, seed))
        for make in BEHAVIOURS
        for seed in SEEDS
    ]
    # From an activation of which no feature is there, which no text leads to.
    cases += [
        Case(f"{make.__name__}, from zero", make(N_PAIRS), has_corrupted=False)
        for make in BEHAVIOURS
    ]
    print(
        f"completeness gap of integrated gradients, {N_PAIRS} pairs, in percent of the "
        "change: mean and largest"
    )
    results = []
    for case in cases:
        for row in _of_case(model, saes, case):
            results.append(row)
            print(
                f"{row['case']:>22} {row['site']:>26} {row['rule']:>10}: "
                f"{row['mean']:7.3f} {row['largest']:7.3f}",
                flush=True,
            )
    return results


def _of_case(model: Any, saes: list[sle.SAE], case: Case) -> Iterable[dict[str, Any]]:
    some = case.behaviour
    prompts = some.pairs if case.has_corrupted else [clean for clean, _ in some.pairs]
    ours = sle.circuits.effects(
        model,
        saes,
        prompts,
        metric=some.metric(),
        method="integrated_gradients",
        steps=STEPS,
    )
    analysis = Analysis.of(
        model, saes, prompts, None, metric=some.metric(), k=None, positions=None
    )
    runs = analysis.runs(with_gradients=False)
    rules: dict[str, Rule] = {
        f"gauss {STEPS}": partial(gauss_points, STEPS),
        f"left {LEFT_STEPS}": partial(left_points, LEFT_STEPS),
    }
    for name, place in analysis.placed.items():
        gap = ours.completeness_gap[name]
        (totals,) = [t for site, t in ours.totals().items() if site == name]
        change = totals - gap
        gaps = {f"ours {STEPS}": gap}

        x = runs.clean.activations[place.site]
        x_0 = baseline(runs.clean_codes[name], runs.corrupted_codes[name])
        step = (x.double() - x_0.double()) * analysis.masks[name].unsqueeze(-1)
        path = Path(x, x_0, analysis.masks[name])
        for rule, points in rules.items():
            gradient = mean_gradient(analysis, place.site, path, points())
            gaps[rule] = (step * gradient).sum((1, 2)) - change

        for rule, of_rule in gaps.items():
            share = 100 * (of_rule / change).abs()
            yield {
                "case": case.name,
                "site": name,
                "rule": rule,
                "mean": float(share.mean()),
                "largest": float(share.max()),
                "below_one": float((share < 1).double().mean()),
            }


def left_points(steps: int) -> Iterable[tuple[float, float]]:
    """The beginnings of equal parts, with equal weights.

    >>> list(left_points(2))
    [(0.0, 0.5), (0.5, 0.5)]
    """
    return [(step / steps, 1 / steps) for step in range(steps)]
