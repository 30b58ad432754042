"""What a table of ``run_grid`` says: the best learning rate of each kernel, how well it does there, and by how much kernels differ.

The best learning rate is chosen by the same runs that are then averaged, as published; every kernel has that advantage.
"""

import itertools
from typing import Any

import pandas as pd


def at_best_lr(results: Any) -> pd.DataFrame:
    """The runs of each kernel at the learning rate at which they are best on average; the lower one of equals."""
    means = results.groupby(["kernel", "lr"])["accuracy"].mean()
    best = {
        kernel: means[kernel].idxmax() for kernel in dict.fromkeys(results["kernel"])
    }
    return (
        results[results["lr"] == results["kernel"].map(best)]
        .sort_values("seed", kind="stable")
        .reset_index(drop=True)
    )


def summary(results: Any) -> pd.DataFrame:
    """One line per kernel, at its best learning rate, in the order of ``results``.

    Columns: ``kernel``; ``lr``; ``runs``, how many seeds; ``accuracy``, their mean; ``std`` of the runs and ``se`` of the mean, NaN for one
    run; ``solved``, the share of runs in which a test found at least 90 %; ``steps_to_solve``, the median of these; ``seconds`` of a run.
    """
    lines, best = [], at_best_lr(results)
    for kernel in dict.fromkeys(results["kernel"]):
        runs: Any = best[best["kernel"] == kernel]
        solved: Any = runs[runs["solved_at"] > 0]
        lines.append(
            {
                "kernel": kernel,
                "lr": runs["lr"].iloc[0],
                "runs": len(runs),
                "accuracy": runs["accuracy"].mean(),
                "std": runs["accuracy"].std(),
                "se": runs["accuracy"].sem(),
                "solved": len(solved) / len(runs),
                "steps_to_solve": solved["solved_at"].median(),
                "seconds": runs["seconds"].mean(),
            }
        )
    return pd.DataFrame(lines)


def differences(results: Any) -> pd.DataFrame:
    """How much better the second of every two kernels is than the first, each at its best learning rate.

    Columns: ``first``; ``second``; ``difference`` of the means; ``se``, its standard error without assuming that both spread alike; and
    ``t``, how many standard errors it is, NaN where one run leaves the error unknown or all runs agree.

    Source: Welch 1947, for the standard error.
    """
    lines, found = [], summary(results).to_dict(orient="records")
    for first, second in itertools.combinations(found, 2):
        difference, se = (
            second["accuracy"] - first["accuracy"],
            (first["se"] ** 2 + second["se"] ** 2) ** 0.5,
        )
        t = difference / se if se > 0 else float("nan")
        lines.append(
            {
                "first": first["kernel"],
                "second": second["kernel"],
                "difference": difference,
                "se": se,
                "t": t,
            }
        )
    return pd.DataFrame(lines, columns=["first", "second", "difference", "se", "t"])
