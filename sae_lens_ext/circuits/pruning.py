"""A smaller circuit, by what its nodes are worth beside each other.

Effects are taken where every node is there, or comes back with all others. In a small
circuit most nodes stay ablated, and a node may be worth nothing without one of those.
Here the path leads from no node to those of the circuit alone: their gates open
together, all others stay closed, and the mean derivative of the metric by a gate is the
node's share of what the circuit does. The nodes of the smallest shares are dropped, a
quarter at a time, and those that are left are looked at again.

Source: Sundararajan et al. 2017 (integrated gradients), here by gates; Conmy et al.
2023 (nodes are dropped one after the other, and the rest is run).
"""

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
from sae_lens_ext.circuits.measurement import Metric
from sae_lens_ext.circuits.prompts import clean_and_corrupted
from sae_lens_ext.circuits.quadrature import gauss_points
from sae_lens_ext.circuits.running.ablated import Ablation
from sae_lens_ext.circuits.running.keys import EMPTY, SiteWeights
from sae_lens_ext.circuits.running.of_circuit import analysis_of, runner_of
from sae_lens_ext.circuits.running.runner import CircuitRunner
from sae_lens_ext.circuits.table import ERROR
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.interventions.positions import Positions

# Points on the path.
_STEPS = 4
# The share of the nodes that is left after a round.
_KEPT = 0.75


def pruned_nodes(
    circuit: CircuitNodes,
    model: Any,
    clean: Any,
    corrupted: Any,
    *,
    metric: Metric,
    budget: int,
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
        gates = _Gates.of(circuit, analysis, alignment, ablation)
        nodes = circuit.nodes.assign(always=is_always)
        while True:
            nodes = nodes.assign(score=gates.shares(nodes).numpy())
            nodes = nodes.sort_values(
                ["always", "score"], ascending=False, kind="stable"
            )
            if len(nodes) == budget:
                break
            nodes = nodes.head(max(budget, int(_KEPT * len(nodes))))
    return nodes.drop(columns="always").reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class _Gates:
    """Runs of some nodes of a circuit, all to the same extent.

    Attributes:
        runner: of circuits of these nodes.
        alignment: what their positions are counted from.
        direction: by row, the sign of what the model's metric is above that of no node.
    """

    runner: CircuitRunner
    alignment: Alignment
    direction: Float[Tensor, "*rows"]

    @classmethod
    def of(
        cls,
        circuit: CircuitNodes,
        analysis: Analysis,
        alignment: Alignment,
        ablation: Ablation,
    ) -> "_Gates":
        """Gates of the nodes of a circuit.

        Raises:
            InvalidArgument: a metric that does not depend on nodes.
        """
        runs = analysis.runs(with_gradients=False)
        runner = runner_of(circuit, analysis, runs, alignment, ablation)
        rows = range(len(analysis.prompts.clean))
        (empty,) = runner.values([EMPTY], rows, runs.clean.logits, batch_size=len(rows))
        direction = (runs.clean.values - empty).sign()
        if not direction.any():
            raise InvalidArgument(
                "the metric is the same with every node as it is and with every node "
                "ablated, so no node does anything; choose another ablation, metric "
                "or site"
            )
        return cls(runner, alignment, direction)

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
        return total / max(1, self.direction.numel())

    def _gradient(
        self, nodes: Any, keys: Int[Tensor, " nodes"], gates: Float[Tensor, " nodes"]
    ) -> Float[Tensor, " nodes"]:
        runner = self.runner
        rows = torch.arange(len(runner.analysis.prompts.clean))
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
            values = runner.analysis.measurement.values(logits)
            towards = (values * self.direction.to(values.device)).sum()
            (gradient,) = torch.autograd.grad(towards, [gates])
        return gradient
