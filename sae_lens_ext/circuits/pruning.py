"""A smaller circuit, by what its nodes are worth beside each other.

Effects are taken where every node is there, or comes back with all others. In a small
circuit most nodes stay ablated, and a node may be worth nothing without one of those.
Here the path leads from no node to those of the circuit alone: their gates open
together, all others stay closed, and the mean derivative of the metric by a gate is the
node's share of what the circuit does. The nodes of the smallest shares are dropped, a
quarter at a time, and those that are left are looked at again.

A share is not all that is lost with its node: without the first node of a chain, the
others do nothing. Where a drop loses much, fewer nodes are dropped, and where a single
one does, every node is left out once, and the one that is missed least goes.

Source: Sundararajan et al. 2017 (integrated gradients), here by gates; Conmy et al.
2023 (nodes are dropped one after the other, and the rest is run).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.circuits.alignment import Align, Alignment
from sae_lens_ext.circuits.analysis import Analysis
from sae_lens_ext.circuits.circuit_nodes import CircuitNodes
from sae_lens_ext.circuits.faithfulness.call import checked_ablation
from sae_lens_ext.circuits.faithfulness.controls import ordered
from sae_lens_ext.circuits.faithfulness.curve import Draw
from sae_lens_ext.circuits.measurement import Metric
from sae_lens_ext.circuits.prompts import clean_and_corrupted
from sae_lens_ext.circuits.quadrature import gauss_points
from sae_lens_ext.circuits.running.ablated import Ablation
from sae_lens_ext.circuits.running.keys import EMPTY, SiteWeights
from sae_lens_ext.circuits.running.of_circuit import analysis_of, runner_of
from sae_lens_ext.circuits.running.runner import CircuitRunner
from sae_lens_ext.circuits.selection import checked_rows
from sae_lens_ext.circuits.table import ERROR
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.interventions.positions import Positions

# Points on the path.
_STEPS = 4
# The share of the nodes that is left after a round.
_KEPT = 0.75
# The share of what they do that a round may lose, if fewer nodes can be dropped.
_LOSS = 0.25
# Rows, each in one circuit, of a run of the model.
_BATCH_SIZE = 32


def pruned_nodes(
    circuit: CircuitNodes,
    model: Any,
    clean: Any,
    corrupted: Any,
    *,
    metric: Metric,
    budget: int,
    rows: Any,
    ablation: Ablation | None,
    align: Align,
    positions: Positions,
) -> Any:
    """The nodes that are left, and their scores; see ``Circuit.pruned``."""
    require("pandas", "Circuit.pruned")
    n_nodes = len(circuit.nodes)
    budget = arguments.integer(budget, "budget", at_least=1, at_most=n_nodes)
    clean, corrupted = clean_and_corrupted(clean, corrupted)
    ablation = checked_ablation(ablation, has_corrupted=corrupted is not None)
    is_always = (circuit.nodes["feature"] == ERROR) & (circuit.errors == "all")
    if budget < is_always.sum():
        raise InvalidArgument(
            f"budget={budget} is less than the {is_always.sum()} errors that this "
            "circuit always has (errors='all')"
        )

    # Tensors of inference mode, in which users may call this, take no gradients.
    with torch.inference_mode(False):
        analysis, alignment = analysis_of(
            circuit,
            model,
            clean,
            corrupted,
            metric=metric,
            align=align,
            positions=positions,
        )
        numbers = checked_rows(rows, len(analysis.prompts.clean))
        gates = _Gates.of(circuit, analysis, alignment, ablation, numbers)
        nodes = gates.ordered(circuit.nodes.assign(always=is_always))
        while len(nodes) > budget:
            nodes = _smaller(nodes, gates, budget)

        # What is best at every round need not be at the end.
        first = circuit.nodes.assign(always=is_always).head(budget)
        if first.always.sum() == is_always.sum():
            done, done_by_first = gates.done([nodes, first])
            if done_by_first > done:
                nodes = gates.ordered(first)
    return nodes.drop(columns="always").reset_index(drop=True)


def _smaller(nodes: Any, gates: "_Gates", budget: int) -> Any:
    """The nodes, with their shares, that are left after a round."""
    n_nodes = len(nodes)
    sizes = [max(budget, int(_KEPT * n_nodes))]
    while sizes[-1] < n_nodes - 1:
        sizes.append((n_nodes + sizes[-1] + 1) // 2)

    smaller = [nodes.head(size) for size in sizes]
    done, *done_by_smaller = gates.done([nodes, *smaller])
    for left, done_by_left in zip(smaller, done_by_smaller, strict=True):
        if done_by_left >= (1 - _LOSS) * done:
            return gates.ordered(left)

    without = [
        nodes.drop(index=number) for number in nodes.index[~nodes.always].tolist()
    ]
    done_without = gates.done(without)
    return gates.ordered(without[done_without.index(max(done_without))])


@dataclass(frozen=True, eq=False)
class _Gates:
    """Runs of some nodes of a circuit, all to the same extent.

    Attributes:
        runner: of circuits of these nodes.
        alignment: what their positions are counted from.
        clean_logits: logits of the clean run.
        empty: the metric of no node.
        direction: by row, the sign of what the model's metric is above that; 0 for rows
            that do not count.
        rows: those that count.
    """

    runner: CircuitRunner
    alignment: Alignment
    clean_logits: Float[Tensor, "batch scored d_vocab"]
    empty: Float[Tensor, "*rows"]
    direction: Float[Tensor, "*rows"]
    rows: tuple[int, ...]

    @classmethod
    def of(
        cls,
        circuit: CircuitNodes,
        analysis: Analysis,
        alignment: Alignment,
        ablation: Ablation,
        rows: tuple[int, ...],
    ) -> "_Gates":
        """Gates of the nodes of a circuit.

        Raises:
            InvalidArgument: a metric that does not depend on nodes, or one number for
                all rows where some of them count.
        """
        runs = analysis.runs(with_gradients=False)
        n_rows = len(analysis.prompts.clean)
        if runs.clean.values.ndim == 0 and len(rows) < n_rows:
            raise InvalidArgument(
                "the metric is one number for all rows, and some of the rows are to "
                "count; use a metric that returns one number per row"
            )
        runner = runner_of(circuit, analysis, runs, alignment, ablation)
        logits = runs.clean.logits
        (empty,) = runner.values([EMPTY], rows, logits, batch_size=len(rows))
        direction = (runs.clean.values - empty).sign()
        if not direction.any():
            raise InvalidArgument(
                "the metric is the same with every node as it is and with every node "
                "ablated, so no node does anything; choose another ablation, metric "
                "or site"
            )
        return cls(runner, alignment, logits, empty, direction, rows)

    def ordered(self, nodes: Any) -> Any:
        """The nodes with their shares, those that always stay first, then by shares.

        Args:
            nodes: a DataFrame with the columns site, position, feature and always.
        """
        nodes = nodes.assign(score=self.shares(nodes).numpy())
        by = ["always", "score"]
        return nodes.sort_values(by, ascending=False, kind="stable", ignore_index=True)

    def done(self, circuits: Sequence[Any]) -> list[float]:
        """The change of the metric by some circuits, the mean over rows."""
        sets = []
        for nodes in circuits:
            sites, keys = ordered(nodes, self.runner.spaces, self.alignment)
            sets.append(Draw(sites, keys, self.rows).first(len(keys)))
        values = self.runner.values(
            sets, self.rows, self.clean_logits, batch_size=_BATCH_SIZE
        )
        return [
            float(((of_set - self.empty) * self.direction).double().sum())
            / self._n_values
            for of_set in values
        ]

    @property
    def _n_values(self) -> int:
        """How many numbers of the metric count."""
        return len(self.rows) if self.direction.ndim else 1

    def shares(self, nodes: Any) -> Float[Tensor, " nodes"]:
        """What each node adds, on the mean over rows, while all of them come back.

        Args:
            nodes: a DataFrame with the columns site, position and feature.
        """
        _, keys = ordered(nodes, self.runner.spaces, self.alignment)
        keys = torch.tensor(keys)
        total = torch.zeros(len(nodes), dtype=torch.float64)
        for share, weight in gauss_points(_STEPS):
            gates = torch.full((len(nodes),), share, requires_grad=True)
            total += weight * self._gradient(nodes, keys, gates).double()
        return total / self._n_values

    def _gradient(
        self, nodes: Any, keys: Int[Tensor, " nodes"], gates: Float[Tensor, " nodes"]
    ) -> Float[Tensor, " nodes"]:
        runner = self.runner
        rows = torch.tensor(self.rows)
        with torch.enable_grad():
            weights = {}
            for name, space in runner.spaces.items():
                device = runner.sites[name].device
                numbers = torch.tensor((nodes["site"] == name).to_numpy().nonzero()[0])
                numbers = numbers[keys[numbers].argsort()]
                weights[name] = SiteWeights(
                    space,
                    keys[numbers].to(device),
                    gates[numbers].to(device),
                    torch.zeros(1, dtype=torch.bool, device=device),
                )
            logits = runner.logits(
                weights, torch.zeros_like(rows), rows, with_gradients=True
            )
            # Rows that do not count are those of the clean run.
            all_logits = self.clean_logits.detach().index_put(
                (rows.to(logits.device),), logits
            )
            values = runner.analysis.measurement.differentiable(all_logits)
            towards = (values * self.direction.to(values.device)).sum()
            (gradient,) = torch.autograd.grad(towards, [gates])
        return gradient
