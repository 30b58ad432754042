"""Tables of circuits: what effects cost, and what circuits of behaviours are worth."""

from collections.abc import Sequence
from typing import Any

from benchmarks import behaviour_tables
from benchmarks.tables.layout import mb, table


def circuits(results: dict[str, dict[str, Any]]) -> list[str]:
    """What every k costs, and what integrated gradients miss of the change."""
    numbers = results["cpu"]
    gaps = numbers["completeness"]
    rules = list(dict.fromkeys(row["rule"] for row in gaps))
    titles = [
        rule.replace("ours", "gradients where the metric changes:")
        .replace("gauss", "points of Gauss and Legendre:")
        .replace("left", "beginnings of equal parts:")
        for rule in rules
    ]
    cells: dict[tuple[str, str], list[str]] = {}
    for row in gaps:
        cells.setdefault((row["case"], row["site"]), []).append(_gap(row))
    rows = [[case, f"`{site}`", *of_rules] for (case, site), of_rules in cells.items()]
    sentence = (
        "Effects at every k from 1 to 64 take "
        f"{numbers['every_over_one']:.2f} times as long as those at one k. The gap of "
        "integrated gradients in percent of the change, mean (largest) of 24 pairs:"
    )
    return [sentence, "", *table(["pairs", "site", *titles], rows)]


def _gap(row: dict[str, Any]) -> str:
    return f"{row['mean']:.2f} ({row['largest']:.2f})"


def circuit_memory(results: dict[str, dict[str, Any]]) -> list[str]:
    """What effects take on top of the model and the SAEs."""
    numbers = results["cpu"]
    rows = [
        ["512 tokens of Gemma 3 270M: the bare backward", mb(numbers["bare_bytes"])],
        [
            "the same, effects at three sites of 16,384 features",
            f"{mb(numbers['effects_bytes'])}, {numbers['ratio']:.2f} of that",
        ],
    ]
    rows += [
        [f"{long['tokens']:,} tokens of a small Gemma 2", mb(long["bytes"])]
        for long in numbers["long"]
    ]
    return table(["", "memory"], rows)


def behaviours(results: dict[str, dict[str, Any]]) -> Sequence[str]:
    """Circuits of two behaviours, and controls."""
    return behaviour_tables.lines(results["cpu"])[:-1]
