"""Circuits by learned masks: every node has a gate, and gradients close most of them.

A gate is a hard-concrete variable: a sigmoid of noise and a parameter, stretched beyond
0 and 1 and cut there, so that gates are exactly closed or open and still have a
gradient. The loss is the squared distance of the metric from that of the model, and a
penalty on the expected number of open gates above a target, which falls from all nodes
to the budget over the first half of the steps.

Source: Louizos et al. 2018 (hard-concrete gates); De Cao et al. 2022 (masks over the
    parts of a model).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.circuits.alignment import Align, Alignment
from sae_lens_ext.circuits.analysis import Analysis
from sae_lens_ext.circuits.circuit import Circuit
from sae_lens_ext.circuits.faithfulness.call import checked_ablation
from sae_lens_ext.circuits.measurement import Metric
from sae_lens_ext.circuits.prompts import clean_and_corrupted
from sae_lens_ext.circuits.running.ablated import Ablation
from sae_lens_ext.circuits.running.active import active_keys
from sae_lens_ext.circuits.running.keys import EMPTY, KeySpace, SiteWeights
from sae_lens_ext.circuits.running.runner import CircuitRunner, feature_sites
from sae_lens_ext.circuits.selection import ERRORS, Errors
from sae_lens_ext.circuits.table import ERROR
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import SAEs

# Temperature and ends of the stretched gates, as in the paper.
_TEMPERATURE = 2 / 3
_LOW = -0.1
_HIGH = 1.1
# Nearly every gate is open at the beginning.
_START = 2.0


def learn_mask(
    model: Any,
    saes: SAEs,
    clean: Any,
    corrupted: Any = None,
    *,
    metric: Metric,
    k: int | None = None,
    budget: int,
    ablation: Ablation | None = None,
    align: Align = None,
    errors: Errors = "ranked",
    positions: Positions = None,
    extrapolate: bool = False,
    steps: int = 300,
    lr: float = 0.1,
    penalty: float = 1.0,
    seed: int = 0,
) -> Circuit:
    """A circuit of a wanted size, by a mask over nodes that is learned by gradient.

    ::

        circuit = sle.circuits.learn_mask(
            model, sae, clean, corrupted, metric=metric, k=8, budget=20
        )
        circuit.faithfulness(model, other_clean, other_corrupted, metric=metric)

    Unlike effects, which look at one node at a time, a mask is learned for all nodes
    together, with those outside of the circuit ablated. It costs ``steps`` forward and
    backward passes of all rows, is of one k, and is the same for the same seed.

    Args:
        model: as in ``splice``.
        saes: as in ``effects``.
        clean: as in ``effects``.
        corrupted: as in ``effects``.
        metric: as in ``effects``; every metric, ``kl("clean")`` too, is brought to its
            value in the clean run.
        k: the k of the nodes, at every site; None means the k that the SAE there was
            trained at.
        budget: how many nodes to take: those whose gates are most probably open.
        ablation: what nodes outside are set to, as in ``Circuit.faithfulness``.
        align: what a node is, as in ``Effects.select``.
        errors: as in ``Effects.select``.
        positions: as in ``effects``.
        extrapolate: allow a k above what an SAE was trained at.
        steps: steps of Adam.
        lr: its learning rate.
        penalty: weight of the penalty; the loss without it is 1 for the empty circuit.
        seed: of the noise.

    Returns:
        The circuit; the score of a node is the probability that its gate is open.

    Raises:
        UnknownSite, ShapeMismatch, InvalidK, NonFinite, UnsupportedHost: as in
            ``effects``.
        InvalidArgument: an invalid option, or a metric that does not depend on nodes.
    """
    require("pandas", "circuits.learn_mask")
    budget = arguments.positive_int(budget, "budget")
    settings = _Settings(
        arguments.positive_int(steps, "steps"),
        arguments.finite(lr, "lr", above=0),
        arguments.finite(penalty, "penalty", at_least=0),
        arguments.integer(seed, "seed", at_least=0),
    )
    arguments.choice(errors, "errors", ERRORS)
    clean, corrupted = clean_and_corrupted(clean, corrupted)
    ablation = checked_ablation(ablation, has_corrupted=corrupted is not None)

    # Tensors of inference mode, in which users may call this, take no gradients.
    with torch.inference_mode(False):
        analysis = Analysis.of(
            model,
            saes,
            clean,
            corrupted,
            metric=metric,
            k=k,
            positions=positions,
            extrapolate=arguments.flag(extrapolate, "extrapolate"),
        )
        alignment = Alignment.of(align, analysis.setting.lengths)
        runs = analysis.runs(with_gradients=False)
        sites = feature_sites(analysis, runs, ablation)
        runner = CircuitRunner.of(analysis, sites, alignment)
        rows = range(len(analysis.prompts.clean))
        active = active_keys(analysis, runs, runner, alignment, rows)
        gates = {
            name: _Gates.of(keys, runner.spaces[name], errors)
            for name, keys in active.items()
        }
        empty = runner.values([EMPTY], rows, runs.clean.logits, batch_size=len(rows))
        learned = _learned(
            runner,
            gates,
            runs.clean.values,
            next(empty),
            budget,
            settings,
        )
    nodes = _table(gates, runner.spaces, learned, alignment)
    return Circuit(
        nodes.head(budget),
        analysis.ks,
        analysis.setting.saes,
        alignment,
        analysis.setting.positions,
        errors,
        "masks",
    )


@dataclass(frozen=True)
class _Settings:
    steps: int
    lr: float
    penalty: float
    seed: int


@dataclass(frozen=True, eq=False)
class _Gates:
    """The nodes of one site.

    Attributes:
        keys: of the nodes with a gate, in ascending order.
        open: of those that are always in the circuit.
    """

    keys: Int[Tensor, " nodes"]
    open: Int[Tensor, " always"]

    @classmethod
    def of(
        cls, active: Int[Tensor, " active"], space: KeySpace, errors: Errors
    ) -> "_Gates":
        """Gates of active nodes, and of errors where those are ranked."""
        none = active[:0]
        if errors == "ranked":
            return cls(active, none)
        is_error = active % (space.n_features + 1) == space.key(0, ERROR)
        always = none
        if errors == "all":
            always = torch.tensor([space.key(0, ERROR)])
        return cls(active[~is_error], always)

    def weights(
        self, mask: Float[Tensor, " nodes"], space: KeySpace, device: torch.device
    ) -> SiteWeights:
        """The weights of the nodes of one circuit, with gradients by the mask."""
        keys, order = torch.cat([self.keys, self.open]).sort()
        values = torch.cat([mask, torch.ones(len(self.open))])[order]
        is_inverted = torch.zeros(1, dtype=torch.bool)
        return SiteWeights(
            space, keys.to(device), values.to(device), is_inverted.to(device)
        )


def _learned(
    runner: CircuitRunner,
    gates: Mapping[str, _Gates],
    full: Float[Tensor, "*rows"],
    empty: Float[Tensor, "*rows"],
    budget: int,
    settings: _Settings,
) -> Float[Tensor, " nodes"]:
    """The parameters of all gates, site after site."""
    scale = (full - empty).square().mean()
    if float(scale) == 0:
        raise InvalidArgument(
            "the metric is the same with every node as it is and with every node "
            "ablated, so no mask can be learned; choose another ablation, metric or "
            "site"
        )
    n_rows = len(runner.analysis.prompts.clean)
    rows = torch.arange(n_rows)
    circuits = torch.zeros_like(rows)
    sizes = [len(of_site.keys) for of_site in gates.values()]
    if not sum(sizes):
        return torch.zeros(0)
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.enable_grad():
        parameters = torch.full((sum(sizes),), _START, requires_grad=True)
        optimizer = torch.optim.Adam([parameters], lr=settings.lr)
        for step in range(settings.steps):
            mask = _sampled(parameters, generator)
            weights = {
                name: gates[name].weights(
                    of_site, runner.spaces[name], runner.sites[name].device
                )
                for name, of_site in zip(gates, mask.split(sizes), strict=True)
            }
            logits = runner.logits(weights, circuits, rows, with_gradients=True)
            values = runner.analysis.measurement.differentiable(logits)
            distance = (values - full).square().mean() / scale

            target = _target(step / settings.steps, len(parameters), budget)
            excess = torch.relu(_open(parameters).sum() - target) / target
            loss = distance.cpu() + settings.penalty * excess
            (parameters.grad,) = torch.autograd.grad(loss, [parameters])
            optimizer.step()
    return parameters.detach()


def _sampled(
    parameters: Float[Tensor, " nodes"], generator: torch.Generator
) -> Float[Tensor, " nodes"]:
    """Values of gates, from 0 to 1, both of which they may be."""
    # Away from the ends, whose logits are infinite.
    noise = torch.rand(len(parameters), generator=generator).clamp(1e-6, 1 - 1e-6)
    gates = torch.sigmoid((noise.logit() + parameters) / _TEMPERATURE)
    return (gates * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def _open(parameters: Float[Tensor, " nodes"]) -> Float[Tensor, " nodes"]:
    """The probability that each gate is not closed."""
    return torch.sigmoid(parameters - _TEMPERATURE * math.log(-_LOW / _HIGH))


def _target(progress: float, n_nodes: int, budget: int) -> float:
    """The number of open gates without a penalty, at a share of all steps."""
    share = min(1.0, 2 * progress)
    return max(float(budget), n_nodes + share * (budget - n_nodes))


def _table(
    gates: Mapping[str, _Gates],
    spaces: Mapping[str, KeySpace],
    parameters: Float[Tensor, " nodes"],
    alignment: Alignment,
) -> Any:
    """Nodes and the probabilities of their gates; those without a gate come first."""
    pandas = require("pandas", "circuits.learn_mask")
    always = []
    keys = []
    for name, of_site in gates.items():
        always += [(name, key) for key in of_site.open.tolist()]
        keys += [(name, key) for key in of_site.keys.tolist()]
    order = parameters.argsort(descending=True, stable=True)
    scores = [1.0] * len(always) + _open(parameters)[order].tolist()

    rows = []
    nodes = always + [keys[number] for number in order.tolist()]
    for (name, key), score in zip(nodes, scores, strict=True):
        slot, feature = spaces[name].node(key)
        rows.append((name, alignment.label_of(slot), feature, score))
    table = pandas.DataFrame(rows, columns=["site", "position", "feature", "score"])
    return table.astype({"position": object})
