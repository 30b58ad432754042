"""What a table of ``train_grid`` shows: how well each kernel does, and how they differ.

A kernel counts at its best learning rate. That rate is chosen by the same models whose
accuracy is then averaged, as published; every kernel has that advantage.
"""

import itertools
from typing import Any

import pandas as pd


def at_best_lr(results: Any) -> pd.DataFrame:
    """The lines of each kernel at the learning rate with the best mean accuracy.

    Of equally good learning rates the lower one counts.
    """
    means = results.groupby(["kernel", "lr"])["accuracy"].mean()
    kernels = dict.fromkeys(results["kernel"])
    best_lr = {kernel: means[kernel].idxmax() for kernel in kernels}

    is_best = results["lr"] == results["kernel"].map(best_lr)
    return results[is_best].sort_values("seed", kind="stable").reset_index(drop=True)


def summary(results: Any) -> pd.DataFrame:
    """One line per kernel, at its best learning rate, in the order of ``results``.

    Columns: ``kernel``; ``lr``; ``runs``, the number of seeds; ``accuracy``, their
    mean; ``std`` over the seeds and ``se`` of the mean, NaN for one seed; ``solved``,
    the share of seeds with which a test found at least 90 %; ``steps_to_solve``, the
    median over these; ``seconds``, the mean duration of a training.
    """
    best = at_best_lr(results)
    lines = []
    for kernel in dict.fromkeys(results["kernel"]):
        of_kernel: Any = best[best["kernel"] == kernel]
        accuracy = of_kernel["accuracy"]
        solved: Any = of_kernel[of_kernel["solved_at"] > 0]
        lines.append(
            {
                "kernel": kernel,
                "lr": of_kernel["lr"].iloc[0],
                "runs": len(of_kernel),
                "accuracy": accuracy.mean(),
                "std": accuracy.std(),
                "se": accuracy.sem(),
                "solved": len(solved) / len(of_kernel),
                "steps_to_solve": solved["solved_at"].median(),
                "seconds": of_kernel["seconds"].mean(),
            }
        )
    return pd.DataFrame(lines)


def differences(results: Any) -> pd.DataFrame:
    """How much better the second of every two kernels is than the first.

    Both are at their best learning rates. Columns: ``first``; ``second``;
    ``difference`` of the means; ``se``, its standard error without the assumption that
    both spread alike; ``t``, the difference in standard errors, NaN where one seed
    leaves the error unknown or all seeds agree.

    Source: Welch 1947, for the standard error.
    """
    lines = []
    kernels = summary(results).to_dict(orient="records")
    for first, second in itertools.combinations(kernels, 2):
        difference = second["accuracy"] - first["accuracy"]
        se = (first["se"] ** 2 + second["se"] ** 2) ** 0.5
        lines.append(
            {
                "first": first["kernel"],
                "second": second["kernel"],
                "difference": difference,
                "se": se,
                "t": difference / se if se > 0 else float("nan"),
            }
        )
    # Named, because a single kernel leaves no lines to take the columns from.
    return pd.DataFrame(lines, columns=["first", "second", "difference", "se", "t"])
