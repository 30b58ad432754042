"""Effects of features and errors on a metric, at every k from one run."""

from typing import Any, Literal, overload

import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.circuits.ablation import MeasuredEffects, measured
from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.choice import chosen_nodes
from sae_lens_ext.circuits.freezing import checked_freeze
from sae_lens_ext.circuits.measurement import Metric
from sae_lens_ext.circuits.methods import effects_by_site
from sae_lens_ext.circuits.metrics import is_flat_at_clean
from sae_lens_ext.circuits.result import Effects
from sae_lens_ext.errors import InvalidArgument, InvalidK
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import SAEs

Method = Literal["attribution", "integrated_gradients", "joint", "ablation"]
METHODS = ("attribution", "integrated_gradients", "joint", "ablation")

# Nodes that are ablated in one run.
_BATCH_SIZE = 8


@overload
def effects(
    model: Any,
    saes: SAEs,
    clean: Any,
    corrupted: Any = None,
    *,
    metric: Metric,
    method: Literal["attribution", "integrated_gradients", "joint"] = "attribution",
    k: int | None = None,
    freeze: Any = (),
    positions: Positions = None,
    extrapolate: bool = False,
    steps: int | None = None,
) -> Effects: ...


@overload
def effects(
    model: Any,
    saes: SAEs,
    clean: Any,
    corrupted: Any = None,
    *,
    metric: Metric,
    method: Literal["ablation"],
    k: int,
    freeze: Any = (),
    positions: Positions = None,
    extrapolate: bool = False,
    budget: int | None = None,
    nodes: Any = None,
    batch_size: int | None = None,
) -> MeasuredEffects: ...


def effects(
    model: Any,
    saes: SAEs,
    clean: Any,
    corrupted: Any = None,
    *,
    metric: Metric,
    method: Method = "attribution",
    k: int | None = None,
    freeze: Any = (),
    positions: Positions = None,
    extrapolate: bool = False,
    steps: int | None = None,
    budget: int | None = None,
    nodes: Any = None,
    batch_size: int | None = None,
) -> Effects | MeasuredEffects:
    """How much a metric depends on each feature, and on each error, at every k.

    ::

        metric = sle.circuits.logit_difference(" Paris", " Rome")
        effects = sle.circuits.effects(
            model,
            sae,
            clean="The Eiffel Tower is in the city of",
            corrupted="The Colosseum is in the city of",
            metric=metric,
        )
        effects.at(k=8).nlargest(10, "effect")
        effects.by_k()  # every k, from the same run

    A node is a feature at a position of a row, or the error there: what the features of
    the code at k leave of the activation. Its effect is the change of the metric when
    it goes from its corrupted value to its clean one, and all else stays as in the
    clean run. Without a corrupted run, nodes go from zero, and the constants of an SAE
    (its decoder bias and mean) belong to no node. So the effects at a place add up to
    that of the activation as a whole, at every k.

    ======================== ===========================================================
    method                   effect
    ======================== ===========================================================
    ``attribution``          the change to first order, by the gradient at the clean
                             run: one run for all nodes and every k
    ``integrated_gradients`` the same by the mean gradient along the straight line from
                             the corrupted activation of a site to the clean one:
                             ``steps`` runs and eight forward passes per site, for all
                             of its nodes and every k
    ``joint``                the change while all nodes of all sites go from corrupted
                             to clean together, shared out among them: ``steps`` runs
                             and one more, for every k; for choosing circuits
    ``ablation``             the change, measured: a forward pass of its row for every
                             node, at one k
    ======================== ===========================================================

    A gradient counts every way to the logits, those through later sites included. With
    several sites, the effects of an earlier and a later one overlap, except for
    ``joint``, by which those of all sites add up to the whole change.

    Args:
        model: as in ``splice``. The model runs as it stands: splices and hooks that are
            active take part.
        saes: an SAE that knows its site, a list of those, or SAEs by site name.
        clean: tokens in any form that ``token_batch`` takes: a text or texts of any
            lengths, lists of ids, a tokenizer's output; or a list of pairs, tuples of
            a clean and a corrupted row.
        corrupted: a row for every clean one, of the same length in tokens; None
            compares with zero, except where ``clean`` has pairs.
        metric: ``logit_difference(yes, no)``, ``kl(reference)``, or a differentiable
            function of the logits ``[batch, pos, d_vocab]``, in the columns of the
            clean batch, that returns one number or one per row. A function gets the
            logits at padding too.
        method: a row of the table above.
        k: the largest k, at every site; None means the k that the SAE there was trained
            at, or every active feature. The k of ``ablation``.
        freeze: ``"attention"``, ``"norms"``, both or none: attention patterns, and the
            denominators of norms, are held at their values in the clean run, so that a
            gradient follows the path that is linear in what is left.
        positions: whose nodes to look at, as in ``splice``: by default all but special
            tokens that an SAE was not trained on.
        extrapolate: allow a k above what an SAE was trained at.
        steps: points on the path of integrated gradients or of ``joint``, 8 by
            default.
        budget: how many nodes to ablate, of all rows and sites: those with the largest
            attribution.
        nodes: the nodes to ablate instead: rows of a table that ``at(k)`` gave, or a
            ``Circuit``.
        batch_size: nodes that are ablated in one run, 8 by default.

    Returns:
        ``Effects``, or for ablation ``MeasuredEffects``, at one k.

    Raises:
        UnknownSite, ShapeMismatch, InvalidK, UnsupportedHost: as in ``splice``; or
            ``freeze`` asks for what cannot be held in this model.
        InvalidArgument: pairs of unequal length, a metric without a gradient, an option
            of another method, or an invalid option.
        NonFinite: an activation, the metric, or its gradient holds NaN or infinity.

    Source: Syed et al. 2023 (attribution patching); Marks et al. 2024 (error nodes);
    Sundararajan et al. 2017 (integrated gradients).
    """
    # Here, so that a missing package is reported before any work is done.
    require("pandas", "circuits.effects")
    arguments.choice(method, "method", METHODS)
    _check_options(
        method,
        k,
        steps=steps,
        budget=budget,
        nodes=nodes,
        batch_size=batch_size,
    )
    frozen = checked_freeze(freeze)
    _check_gradient(method, metric, nodes)

    extrapolate = arguments.flag(extrapolate, "extrapolate")
    if steps is not None:
        steps = arguments.positive_int(steps, "steps")
    if budget is not None:
        budget = arguments.positive_int(budget, "budget")
    if batch_size is None:
        batch_size = _BATCH_SIZE
    batch_size = arguments.positive_int(batch_size, "batch_size")

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
            freeze=frozen,
            extrapolate=extrapolate,
        )

        is_path = method in ("integrated_gradients", "joint")
        runs = analysis.runs(with_gradients=not is_path)
        if method != "ablation":
            return _effects(analysis, runs, method, frozen, steps)
        assert k is not None
        return _ablation(analysis, runs, frozen, k, budget, nodes, batch_size)


def _effects(
    analysis: Analysis,
    runs: Runs,
    method: Method,
    frozen: tuple[str, ...],
    steps: int | None = None,
) -> Effects:
    sites, gaps = effects_by_site(analysis, runs, method, steps)
    return Effects(
        method=method,
        setting=analysis.setting,
        metric_clean=runs.clean.values,
        metric_corrupted=runs.metric_corrupted,
        freeze=frozen,
        sites=sites,
        completeness_gap=gaps,
    )


def _ablation(
    analysis: Analysis,
    runs: Runs,
    frozen: tuple[str, ...],
    k: int,
    budget: int | None,
    nodes: Any,
    batch_size: int,
) -> MeasuredEffects:
    table = _effects(analysis, runs, "attribution", frozen).at(k)
    lengths = analysis.setting.lengths
    chosen = chosen_nodes(table, budget=budget, nodes=nodes, k=k, lengths=lengths)
    return MeasuredEffects(
        method="ablation",
        setting=analysis.setting,
        metric_clean=runs.clean.values,
        metric_corrupted=runs.metric_corrupted,
        freeze=frozen,
        k=k,
        table=measured(analysis, runs, chosen, k, batch_size=batch_size),
    )


def _check_options(
    method: str,
    k: Any,
    *,
    steps: Any,
    budget: Any,
    nodes: Any,
    batch_size: Any,
) -> None:
    """Check that each option belongs to the method."""
    options = {
        "steps": (steps, ("integrated_gradients", "joint")),
        "budget": (budget, ("ablation",)),
        "nodes": (nodes, ("ablation",)),
        "batch_size": (batch_size, ("ablation",)),
    }
    for name, (value, owners) in options.items():
        if value is not None and method not in owners:
            methods = " and ".join(map(repr, owners))
            raise InvalidArgument(f"{name} is for method={methods}; got {method!r}")
    if method != "ablation":
        return

    if (budget is None) == (nodes is None):
        raise InvalidArgument(
            "method='ablation' runs the model once for every node: pass budget=, the "
            "number of nodes with the largest attribution, or nodes=, a table of them"
        )
    if k is None:
        raise InvalidK(
            "method='ablation' measures the nodes at one k; pass k=, for instance k=32"
        )


def _check_gradient(method: str, metric: Any, nodes: Any) -> None:
    """Check that a metric does not have its minimum where its gradient is taken."""
    needs_gradient = method == "attribution" or (method == "ablation" and nodes is None)
    if is_flat_at_clean(metric) and needs_gradient:
        raise InvalidArgument(
            "the divergence from the clean run has no gradient at the clean run, so "
            "every attribution would be zero; use method='integrated_gradients', or "
            "method='ablation' with nodes= from there"
        )
