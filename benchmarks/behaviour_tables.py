"""The numbers of ``behaviours`` as tables in Markdown."""

from collections.abc import Iterator
from statistics import fmean
from typing import Any

Table = tuple[list[str], list[list[str]]]
ALONE = "features alone"
PRUNED = "pruned"
Results = dict[str, dict[str, Any]]


def tables(results: Results) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """The title, the header and the rows of every table."""
    yield "Circuits of 5% of the active nodes, and controls", *_with_controls(results)
    yield "Faithfulness by size", *_by_size(results)
    yield "Errors", *_by_errors(results)
    yield "Features alone, and those of untrained SAEs", *_alone(results)
    yield "Ways to choose", *_by_method(results)
    yield "What circuits share", *_shared(results)


def lines(results: Results) -> list[str]:
    """All tables, line by line.

    Args:
        results: as ``behaviours`` writes them, read from JSON.
    """
    written = []
    for title, header, rows in tables(results):
        cells = (header, ["---"] * len(header), *rows)
        table = ["| " + " | ".join(row) + " |" for row in cells]
        written += [f"### {title}", "", *table, ""]
    return written


def _with_controls(results: Results) -> Table:
    kinds = {
        "circuit": "circuit",
        "random": "random nodes",
        "coordinates": "coordinates",
        "neurons": "neurons",
        "other_saes[0]": "untrained SAEs",
    }
    header = ["", "k", "active nodes", "nodes", "errors among them", "completeness"]
    rows = []
    for name, behaviour in results.items():
        for k, active in behaviour["active"].items():
            budget = behaviour["budgets"][k]
            judged = [
                row
                for row in behaviour["circuits"]
                if "kind" not in row and row["budget"] == budget
            ]
            of_kind = {
                kind: [
                    row
                    for row in judged
                    if row["nodes"] == kind
                    and (row["k"] == int(k) or kind in ("coordinates", "neurons"))
                ]
                for kind in kinds
            }
            circuits = _distinct_splits(of_kind["circuit"])
            of_kind[PRUNED] = _of_kind(behaviour, PRUNED, k)
            cells = [
                _mean_and_lowest(
                    [row["faithfulness"] for row in _distinct_splits(of_kind[kind])]
                )
                for kind in (PRUNED, *kinds)
            ]
            n_errors = fmean(row["n_errors"] for row in circuits)
            completeness = fmean(row["completeness"] for row in circuits)
            rows.append(
                [
                    name,
                    k,
                    f"{active:.0f}",
                    f"{budget}",
                    f"{n_errors:.1f}",
                    f"{completeness:.2f}",
                    *cells,
                ]
            )
    return ([*header, PRUNED, *kinds.values()], rows)


def _distinct_splits(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row of every split; the circuit of the largest k was run twice."""
    return list({row["split"]: row for row in rows}.values())


def _mean_and_lowest(values: list[float]) -> str:
    if not values:
        return ""
    return f"{fmean(values):.2f} ({min(values):.2f})"


def _of_kind(behaviour: dict[str, Any], kind: str, k: str) -> list[dict[str, Any]]:
    return [
        row
        for row in behaviour["circuits"]
        if row.get("kind") == kind and row["k"] == int(k)
    ]


def _by_size(results: Results) -> Table:
    rows = []
    for name, behaviour in results.items():
        for k, active in behaviour["active"].items():
            cells = []
            for row in _of_kind(behaviour, "curve", k):
                share = row["budget"] / active
                cells.append(
                    f"{row['faithfulness']:.2f} ({row['budget']}, {share:.1%})"
                )
            rows.append([name, k, *cells])
    width = max(len(row) for row in rows) - 2
    return (["", "k", *[f"size {n + 1}" for n in range(width)]], rows)


def _by_errors(results: Results) -> Table:
    header = [
        "",
        "k",
        "5% of the nodes, features alone",
        "every feature, no error",
        "all errors, and features up to 5%",
    ]
    rows = []
    for name, behaviour in results.items():
        for k in behaviour["active"]:
            without = _of_kind(behaviour, "errors: none", k)
            (with_all,) = _of_kind(behaviour, "errors: all", k)
            cells = [f"{row['faithfulness']:.2f}" for row in (*without, with_all)]
            rows.append([name, k, *cells])
    return (header, rows)


def _alone(results: Results) -> Table:
    rows = []
    for name, behaviour in results.items():
        (k,) = {row["k"] for row in behaviour["circuits"] if row.get("kind") == ALONE}
        alone = _of_kind(behaviour, ALONE, str(k))
        for budget in sorted({row["budget"] for row in alone}):
            cells = [
                _mean_and_lowest(
                    [
                        row["faithfulness"]
                        for row in alone
                        if row["budget"] == budget and row["nodes"] == nodes
                    ]
                )
                for nodes in ("circuit", "other_saes[0]")
            ]
            rows.append([name, f"{k}", f"{budget}", *cells])
    return (["", "k", "nodes", "circuit", "untrained SAEs"], rows)


def _by_method(results: Results) -> Table:
    rows = []
    for name, behaviour in results.items():
        for row in behaviour["circuits"]:
            kind = row.get("kind", "")
            if kind.startswith("method: "):
                rows.append(
                    [
                        name,
                        kind.removeprefix("method: "),
                        f"{row['k']}",
                        f"{row['budget']}",
                        f"{row['n_errors']}",
                        f"{row['faithfulness']:.2f}",
                        f"{row['completeness']:.2f}",
                        f"{row['shared']:.2f}",
                    ]
                )
    header = [
        "",
        "chosen by",
        "k",
        "nodes",
        "errors among them",
        "faithfulness",
        "completeness",
        "shared with the first",
    ]
    return (header, rows)


def _shared(results: Results) -> Table:
    rows = []
    for name, behaviour in results.items():
        for row in behaviour["ks"]:
            band = f"{row['null_low']:.2f} to {row['null_high']:.2f}"
            pair = f"k = {row['k']} and {row['other_k']}"
            rows.append([name, pair, f"{row['jaccard']:.2f}", band])
        for k, share in behaviour["parts"].items():
            rows.append(
                [name, f"k = {k}, chosen on different pairs", f"{share:.2f}", ""]
            )
    return (["", "circuits", "Jaccard index", "of random circuits"], rows)
