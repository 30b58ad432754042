"""The analysis and the runner of a circuit that was chosen before."""

from typing import Any

from sae_lens_ext.circuits.alignment import Align, Alignment
from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.circuit_nodes import CircuitNodes
from sae_lens_ext.circuits.measurement import Metric
from sae_lens_ext.circuits.running.ablated import Ablation
from sae_lens_ext.circuits.running.runner import CircuitRunner, feature_sites
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.interventions.positions import Positions


def analysis_of(
    circuit: CircuitNodes,
    model: Any,
    clean: Any,
    corrupted: Any,
    *,
    metric: Metric,
    align: Align,
    positions: Positions,
) -> tuple[Analysis, Alignment]:
    """An analysis with the SAEs and the k of a circuit.

    Args:
        circuit: the circuit.
        model: a model of any host.
        clean: tokens in any form.
        corrupted: tokens in any form, or None.
        metric: the metric.
        align: what positions of nodes are counted from; None takes the circuit's.
        positions: whose nodes to look at; None takes the circuit's.
    """
    analysis = Analysis.of(
        model,
        circuit.saes,
        clean,
        corrupted,
        metric=metric,
        k=circuit.ks,
        positions=circuit.positions if positions is None else positions,
        extrapolate=True,
    )
    if align is None:
        return analysis, circuit.alignment
    return analysis, Alignment.of(align, analysis.setting.lengths)


def runner_of(
    circuit: CircuitNodes,
    analysis: Analysis,
    runs: Runs,
    alignment: Alignment,
    ablation: Ablation,
) -> CircuitRunner:
    """A runner of circuits with nodes at the positions of this one.

    Args:
        circuit: the circuit.
        analysis: the model, the rows and the SAEs, which need not be the circuit's.
        runs: the runs that ablated values are taken from.
        alignment: what positions of nodes are counted from.
        ablation: what nodes outside of a circuit are set to.

    Raises:
        InvalidArgument: a node is at a position from the start that no row has.
    """
    lengths = analysis.prompts.clean.lengths.tolist()
    positions = circuit.nodes["position"].unique()
    n_slots = 1 + max(alignment.slot_of(position) for position in positions)
    # Counted from the end, a short row just begins later.
    if alignment.kind == "start" and n_slots > max(lengths) + 1:
        raise InvalidArgument(
            f"the circuit has nodes at position {n_slots - 2}, and no prompt has that "
            f"position (the longest has {max(lengths)} tokens); give prompts like "
            "those that the circuit was chosen on, or choose it with another align"
        )
    _check_looked_at(circuit, analysis, alignment)
    sites = feature_sites(analysis, runs, ablation)
    return CircuitRunner.of(analysis, sites, alignment, n_slots)


def _check_looked_at(
    circuit: CircuitNodes, analysis: Analysis, alignment: Alignment
) -> None:
    """Check that positions leave no node out in all rows that have its position.

    Raises:
        InvalidArgument: they do, so the node would do nothing.
    """
    clean = analysis.prompts.clean
    slots = alignment.slots(clean.lengths.tolist())
    present = set(slots[clean.mask.cpu()].tolist())
    for site, nodes in circuit.nodes.groupby("site", sort=False):
        mask = analysis.masks.get(site)
        if mask is None:
            # Another SAE's site.
            continue
        looked_at = set(slots[mask.cpu()].tolist())
        for position in nodes["position"].unique():
            slot = alignment.slot_of(position)
            if slot in present - looked_at:
                raise InvalidArgument(
                    f"the circuit has nodes at position {position!r} of {site}, which "
                    "positions leaves out in every prompt; choose positions with all "
                    "nodes of the circuit"
                )
