"""From effects of single rows to an order of nodes, and how many of them to take.

Source: Marks et al. 2024 (feature circuits), whose effects are means over examples, of
    every position where examples follow a template and summed over positions where they
    do not, and whose nodes are those above a threshold by absolute value.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext._optional import require
from sae_lens_ext.circuits.alignment import EVERYWHERE, Alignment
from sae_lens_ext.circuits.table import ERROR
from sae_lens_ext.errors import InvalidArgument

Errors = Literal["ranked", "all", "none"]
ERRORS = ("ranked", "all", "none")

NODE = ["site", "position", "feature"]


def checked_rows(rows: Any, n_rows: int, name: str = "rows") -> tuple[int, ...]:
    """Numbers of rows, in ascending order; None means all.

    Raises:
        InvalidArgument: not numbers of rows, or none.
    """
    if rows is None:
        return tuple(range(n_rows))
    numbers = arguments.integers(rows, name, at_least=0)
    if not numbers or max(numbers) >= n_rows:
        raise InvalidArgument(
            f"{name} must be numbers from 0 to {n_rows - 1}, at least one; "
            f"got {described(rows)}"
        )
    return tuple(sorted(set(numbers)))


def ranked(
    effects: Any,
    alignment: Alignment,
    lengths: Sequence[int],
    *,
    rows: Sequence[int],
    errors: Errors,
) -> Any:
    """Nodes by the absolute value of their mean effect, largest first.

    Args:
        effects: a table as of ``Effects.at``.
        alignment: which tokens are the same place.
        lengths: the number of tokens of every row.
        rows: the rows to take the mean over.
        errors: ``"ranked"`` for errors as nodes like any other, ``"all"`` for one error
            per site, everywhere and first, ``"none"`` for none.

    Returns:
        A DataFrame with the columns site, position, feature, rank (the smallest of any
        row and token) and score.
    """
    pandas = require("pandas", "Effects.select")
    effects = effects[effects["row"].isin(rows)]
    slots = alignment.slots(lengths).numpy()
    slot = slots[effects["row"].to_numpy(), effects["position"].to_numpy()]
    labels = {
        number: alignment.label_of(number) for number in numpy.unique(slot).tolist()
    }
    is_named = numpy.array([labels[number] is not None for number in slot], dtype=bool)

    is_error = (effects["feature"] == ERROR).to_numpy()
    if errors == "all":
        slot = numpy.where(is_error, 0, slot)
        labels[0] = EVERYWHERE
        is_named |= is_error
    elif errors == "none":
        is_named &= ~is_error

    keys = [effects["site"].to_numpy(), slot, effects["feature"].to_numpy()]
    nodes = pandas.DataFrame(dict(zip(NODE, keys, strict=True)))
    nodes["rank"] = effects["rank"].to_numpy()
    nodes["score"] = effects["effect"].to_numpy() / len(rows)
    groups = nodes[is_named].groupby(NODE, as_index=False, sort=True)
    nodes = groups.agg({"rank": "min", "score": "sum"})

    size = nodes["score"].abs()
    if errors == "all":
        size = size.where(nodes["feature"] != ERROR, numpy.inf)
    order = (-size.to_numpy()).argsort(kind="stable")
    nodes = nodes.iloc[order].reset_index(drop=True)
    positions = [labels[number] for number in nodes["position"]]
    nodes["position"] = pandas.Series(positions, dtype=object)
    return nodes


def n_chosen(
    scores: Any,
    n_always: int = 0,
    *,
    budget: int | None,
    threshold: float | None,
    cumulative: float | None,
) -> int:
    """How many of the first nodes to take; all of them without a rule.

    Args:
        scores: of nodes, the largest first by absolute value.
        n_always: how many nodes come before these, which every circuit has.
        budget: this many nodes, or all where there are fewer.
        threshold: those of at least this absolute value.
        cumulative: the fewest that have this share of the sum of absolute values.

    Raises:
        InvalidArgument: more than one rule, or one that takes no node.
    """
    rules = {"budget": budget, "threshold": threshold, "cumulative": cumulative}
    given = [name for name, value in rules.items() if value is not None]
    if len(given) > 1:
        raise InvalidArgument(
            f"select takes one of budget, threshold and cumulative; got "
            f"{' and '.join(given)}"
        )
    sizes = numpy.abs(numpy.asarray(scores, dtype=numpy.float64))
    n_all = n_always + len(sizes)
    if budget is not None:
        return min(arguments.positive_int(budget, "budget"), n_all)

    if threshold is not None:
        threshold = arguments.finite(threshold, "threshold", above=0)
        n_nodes = int((sizes >= threshold).sum())
        if not n_nodes:
            raise InvalidArgument(
                f"no node has an effect of at least threshold={threshold:g}; the "
                f"largest is {sizes.max(initial=0):g}"
            )
        return n_always + n_nodes

    if cumulative is None or not len(sizes):
        return n_all
    share = arguments.finite(cumulative, "cumulative", above=0, at_most=1)
    sums = sizes.cumsum()
    n_nodes = int(numpy.searchsorted(sums, share * sums[-1])) + 1
    return min(n_always + n_nodes, n_all)
