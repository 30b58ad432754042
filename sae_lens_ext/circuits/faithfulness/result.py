"""The numbers of a test of circuits, by prompt and as curves with bands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from sae_lens_ext._optional import require
from sae_lens_ext.circuits.band import band

Array = numpy.ndarray

# Samples of prompts that bands are taken from.
_N_SAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Measured:
    """One circuit, run on some prompts.

    Attributes:
        kind: what its nodes are: ``"circuit"``, ``"random"``, ...
        draw: which of several circuits of this kind and size.
        budget: the size that was asked for.
        n_nodes: the number of its nodes.
        n_errors: how many of them are errors.
        rows: the prompts that it was run on.
        metric_model: the metric of the model, of each of them.
        metric_empty: the metric with every node of this kind ablated.
        metric: the metric with the nodes of the circuit alone.
        metric_complement: the metric with the nodes of the circuit ablated.
    """

    kind: str
    draw: int
    budget: int
    n_nodes: int
    n_errors: int
    rows: tuple[int, ...]
    metric_model: Array
    metric_empty: Array
    metric: Array
    metric_complement: Array


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How much of the metric circuits give; made by ``Circuit.faithfulness``.

    Attributes:
        ablation: what nodes outside of a circuit were set to.
        measured: every circuit that was run.
        seed: of the random circuits, the splits and the bands.
    """

    ablation: str
    measured: tuple[Measured, ...]
    seed: int = 0

    def table(self) -> Any:
        """A pandas DataFrame with one row per kind of nodes and budget.

        ===================== ==========================================================
        column                meaning
        ===================== ==========================================================
        ``nodes``             ``circuit``, or the name of a control
        ``budget``            the number of nodes that was asked for
        ``n_nodes``           the mean number of nodes that there were
        ``n_errors``          how many of them are errors, the mean as well
        ``n_circuits``        how many circuits it is the mean of
        ``faithfulness``      (m(circuit) - m(empty)) / (m(model) - m(empty)), with m
                              the mean of the metric over prompts: 1 is the model, 0
                              what is there without any node
        ``low``               lower end of its band
        ``high``              upper end
        ``completeness``      the same of the complement, all nodes but those of the
                              circuit: small where nothing that matters was left out
        ``completeness_low``  lower end of its band
        ``completeness_high`` upper end
        ``metric``            m(circuit)
        ``metric_empty``      m(empty)
        ``metric_model``      m(model)
        ===================== ==========================================================

        A band holds 95%: of samples of the prompts, drawn with replacement, where there
        is one circuit, and of the circuits where there are several. It is NaN for one
        circuit of one prompt, or of a metric that is one number for all prompts. Draws
        in which the nodes make no difference to the metric are left out.
        """
        pandas = require("pandas", "Faithfulness.table")
        rows = []
        for kind, budget in dict.fromkeys(
            (item.kind, item.budget) for item in self.measured
        ):
            items = [
                item
                for item in self.measured
                if item.kind == kind and item.budget == budget
            ]
            rows.append(self._row(kind, budget, items))
        return pandas.DataFrame(rows)

    def by_prompt(self) -> Any:
        """The metrics of every prompt and circuit, as a pandas DataFrame.

        Its columns are nodes, draw, budget, n_nodes, n_errors, row, metric (with the
        nodes of the circuit alone), metric_complement (without them), metric_empty and
        metric_model. The row is -1 for a metric that is one number for all prompts.
        """
        pandas = require("pandas", "Faithfulness.by_prompt")
        parts = []
        for item in self.measured:
            rows = item.rows if item.metric.ndim else (-1,)
            columns = {
                "nodes": item.kind,
                "draw": item.draw,
                "budget": item.budget,
                "n_nodes": item.n_nodes,
                "n_errors": item.n_errors,
                "row": list(rows),
                "metric": numpy.atleast_1d(item.metric),
                "metric_complement": numpy.atleast_1d(item.metric_complement),
                "metric_empty": numpy.atleast_1d(item.metric_empty),
                "metric_model": numpy.atleast_1d(item.metric_model),
            }
            parts.append(pandas.DataFrame(columns))
        return pandas.concat(parts, ignore_index=True)

    def _row(self, kind: str, budget: int, items: Sequence[Measured]) -> dict[str, Any]:
        faithfulness, low, high = self._with_band(
            items, [item.metric for item in items]
        )
        completeness, completeness_low, completeness_high = self._with_band(
            items, [item.metric_complement for item in items]
        )
        return {
            "nodes": kind,
            "budget": budget,
            "n_nodes": _mean([item.n_nodes for item in items]),
            "n_errors": _mean([item.n_errors for item in items]),
            "n_circuits": len(items),
            "faithfulness": faithfulness,
            "low": low,
            "high": high,
            "completeness": completeness,
            "completeness_low": completeness_low,
            "completeness_high": completeness_high,
            "metric": _mean([item.metric.mean() for item in items]),
            "metric_empty": _mean([item.metric_empty.mean() for item in items]),
            "metric_model": _mean([item.metric_model.mean() for item in items]),
        }

    def _with_band(
        self, items: Sequence[Measured], values: Sequence[Array]
    ) -> tuple[float, float, float]:
        """The mean share of the metric, and the band around it."""
        shares = [
            _share(value.mean(), item.metric_empty.mean(), item.metric_model.mean())
            for item, value in zip(items, values, strict=True)
        ]
        if len(items) > 1:
            return _mean(shares), *band(shares)

        (item,) = items
        (value,) = values
        if value.ndim == 0 or len(value) == 1:
            return shares[0], numpy.nan, numpy.nan
        generator = numpy.random.default_rng(self.seed)
        chosen = generator.integers(len(value), size=(_N_SAMPLES, len(value)))
        samples = _share(
            value[chosen].mean(1),
            item.metric_empty[chosen].mean(1),
            item.metric_model[chosen].mean(1),
        )
        return shares[0], *band(samples)

    def __repr__(self) -> str:
        """The ablation, and what was measured."""
        kinds = ", ".join(dict.fromkeys(item.kind for item in self.measured))
        n_circuits = len(self.measured)
        return f"Faithfulness({self.ablation} ablation, {n_circuits} circuits: {kinds})"


def _share(value: Any, empty: Any, full: Any) -> Any:
    """What part of the way from the empty circuit to the model a value is."""
    # A sample of prompts may have nothing to explain, and then no share.
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return (value - empty) / (full - empty)


def _mean(values: Sequence[Any]) -> float:
    return float(numpy.mean(values))
