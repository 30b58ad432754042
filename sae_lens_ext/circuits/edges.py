"""Edges between nodes: what each gives directly to a later one, at every k."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy
import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext._optional import require
from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.choice import chosen_nodes
from sae_lens_ext.circuits.direct import (
    METRIC,
    Cuts,
    SiteReader,
    Target,
    contributions,
    targets_of,
    token_effects,
)
from sae_lens_ext.circuits.edge_result import Edges
from sae_lens_ext.circuits.freezing import checked_freeze
from sae_lens_ext.circuits.measurement import Metric
from sae_lens_ext.circuits.methods import effects_by_site
from sae_lens_ext.circuits.metrics import TokenMetric, description, is_flat_at_clean
from sae_lens_ext.circuits.node_effects import EffectsK
from sae_lens_ext.circuits.result import Effects
from sae_lens_ext.errors import InvalidArgument, InvalidK
from sae_lens_ext.hosts import (
    Host,
    TokenBatch,
    embedding_site,
    name_of_model,
    shown_name,
)
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import SAEs

# Targets that share one backward pass.
_BATCH_SIZE = 8


def edges(
    model: Any,
    saes: SAEs,
    clean: Any,
    corrupted: Any = None,
    *,
    metric: Metric,
    k: int | None = None,
    budget: int | None = None,
    nodes: Any = None,
    ks: Iterable[EffectsK] | None = None,
    freeze: Any = (),
    positions: Positions = None,
    extrapolate: bool = False,
    batch_size: int | None = None,
) -> Edges:
    """What every feature, error and token gives directly to later nodes, at every k.

    ::

        metric = sle.circuits.logit_difference(" Paris", " Rome")
        effects = sle.circuits.effects(model, saes, clean, corrupted, metric=metric)
        circuit = effects.select(k=8, budget=30)
        edges = sle.circuits.edges(
            model, saes, clean, corrupted, metric=metric, k=8, nodes=circuit
        )
        edges.at(k=8)
        edges.graph(k=8).pruned()

    An edge leads from a node u to a later node t. Its value is the change of the
    pre-activation of t, to first order, when u goes from its corrupted value (zero
    without a corrupted run) to its clean one and the nodes of every site in between
    stay as they are: only the direct paths count. Times the derivative of the metric by
    the activation of t, it is in units of the metric. Sources are the features and
    errors of all sites, and the embedding of every token; targets are the chosen
    features and errors, and the metric itself. Each target is a feature that stays
    open: its gate does not close when its pre-activation moves.

    So edges into a feature add up to its pre-activation less what biases give, where
    the paths are linear; and edges out of a node, into all nodes of later sites and the
    metric, add up to its effect, always.

    Edges are there at every k up to the largest, from one pass, because a gradient
    between two activations does not depend on k. Only an error as a target is another
    vector at every k, with a backward pass for each: at those in ``ks``.

    Args:
        model: as in ``splice``.
        saes: as in ``splice``. Sites between which edges are wanted, or only one, for
            edges from tokens to its nodes and from those to the metric.
        clean: as in ``effects``.
        corrupted: as in ``effects``.
        metric: as in ``effects``.
        k: the largest k, as in ``effects``. Targets are chosen at it.
        budget: how many targets to choose, of all rows and sites: those with the
            largest effects.
        nodes: the targets instead: rows of a table that ``Effects.at(k)`` gave, or a
            ``Circuit``, whose nodes are targets in every row that has them. Features
            that are not active in the clean run have no edges into them.
        ks: the values of k at which to compute edges into errors; None means the
            largest alone.
        freeze: as in ``effects``. With attention and norms held, edges are exact
            between sites that have no MLP in between.
        positions: as in ``effects``. At other positions there are no nodes, so paths
            pass through.
        extrapolate: as in ``effects``.
        batch_size: targets that share one run and one backward pass; 8 by default.

    Raises:
        UnsupportedHost: it is not known what embeds the model's tokens; or as in
            ``effects``.
        InvalidArgument: neither budget nor nodes, or both; nodes that are not there at
            this k; or as in ``effects``.
        UnknownSite, ShapeMismatch, InvalidK, NonFinite: as in ``effects``.

    Source: Marks et al. 2024 (edges between features and errors); Ameisen et al. 2025
    (linear attribution with attention and norms held).
    """
    # Here, so that a missing package is reported before any work is done.
    require("pandas", "circuits.edges")
    if budget is not None and nodes is not None:
        raise InvalidArgument(
            "budget= chooses the nodes, and nodes= names them; pass one of the two"
        )
    if budget is None and nodes is None:
        raise InvalidArgument(
            "every node that edges lead to takes a backward pass: pass budget=, the "
            "number of nodes with the largest effects, or nodes=, a table of them"
        )
    if budget is not None:
        budget = arguments.positive_int(budget, "budget")
    if batch_size is None:
        batch_size = _BATCH_SIZE
    batch_size = arguments.positive_int(batch_size, "batch_size")
    frozen = checked_freeze(freeze)
    extrapolate = arguments.flag(extrapolate, "extrapolate")
    if is_flat_at_clean(metric):
        raise InvalidArgument(
            "the divergence from the clean run has no gradient at the clean run, so "
            "every edge would be zero; choose another metric, such as logit_difference"
        )

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
        embedding = embedding_site(analysis.host)
        analysis = replace(analysis, embedding=embedding)
        runs = analysis.runs(with_gradients=True)
        sites, _ = effects_by_site(analysis, runs, "attribution")
        effects = Effects(
            method="attribution",
            setting=analysis.setting,
            metric_clean=runs.clean.values,
            metric_corrupted=runs.metric_corrupted,
            freeze=frozen,
            sites=sites,
        )

        table = effects.at()
        largest = effects.largest_k
        chosen = chosen_nodes(
            table,
            budget=budget,
            nodes=nodes,
            k=largest,
            lengths=analysis.setting.lengths,
        )
        error_ks = _error_ks(effects, ks)
        return _edges(analysis, runs, effects, chosen, error_ks, metric, batch_size)


def _edges(
    analysis: Analysis,
    runs: Runs,
    effects: Effects,
    chosen: Any,
    error_ks: dict[str, list[int]],
    metric: Metric,
    batch_size: int,
) -> Edges:
    cuts = Cuts(analysis, runs.clean.activations)
    readers = {
        name: SiteReader(analysis, runs, name) for name in chosen["site"].unique()
    }
    nodes = targets_of(chosen, runs, error_ks, cuts)
    tokens = analysis.prompts.clean
    targets = [*_metric_targets(metric, tokens), *nodes]

    # An error's edges are in units of the metric already.
    values = runs.clean.values.expand(len(tokens)).tolist()
    slopes = [1.0] * len(tokens)
    for node in nodes:
        activation = float("nan")
        slope = 1.0
        if not node.is_error:
            reader = readers[node.site]
            activation = reader.activation(node)
            slope = reader.slope(node)
        values.append(activation)
        slopes.append(slope)

    assert analysis.embedding is not None
    embedding_gradient = runs.clean.gradients[analysis.embedding]
    rows = torch.arange(len(tokens))
    return Edges(
        effects=effects,
        targets=targets,
        activations=numpy.array(values),
        slopes=numpy.array(slopes),
        contributions=contributions(analysis, runs, cuts, readers, targets, batch_size),
        nodes=chosen,
        sites=sorted(analysis.placed, key=lambda name: cuts.depth(name, of_error=True)),
        token_effects=token_effects(analysis, runs, embedding_gradient, rows),
        tokens=_texts(analysis.host, tokens),
        model=_model_name(analysis.host.model),
        metrics=[description(metric, row) for row in range(len(tokens))],
    )


def _error_ks(effects: Effects, ks: Iterable[EffectsK] | None) -> dict[str, list[int]]:
    """The values of k at which to compute edges into errors, by site, within bounds."""
    if ks is not None and (isinstance(ks, str) or not isinstance(ks, Iterable)):
        raise InvalidK(f"ks must be a list of values of k; got {described(ks)}")
    wanted = [None] if ks is None else list(ks)
    if not wanted:
        raise InvalidK("ks must have at least one k; got none")

    by_site: dict[str, list[int]] = {name: [] for name in effects.sites}
    for value in wanted:
        for name, site_k in effects.ks_at(value).items():
            # A larger k has the same nodes, where every active feature is encoded.
            bounded = min(site_k, effects.sites[name].k)
            if bounded not in by_site[name]:
                by_site[name].append(bounded)
    return by_site


def _metric_targets(metric: Metric, tokens: TokenBatch) -> list[Target]:
    """The metric of every row, at the position that it reads."""
    position = metric.position if isinstance(metric, TokenMetric) else -1
    return [
        Target(row, METRIC, position if position >= 0 else int(length) + position)
        for row, length in enumerate(tokens.lengths)
    ]


def _texts(host: Host, tokens: TokenBatch) -> list[list[str]]:
    """The text of every token, or its id where the model has no tokenizer."""
    decode = getattr(host.tokenizer, "decode", None)
    texts = []
    lengths = tokens.lengths.tolist()
    for ids, length in zip(tokens.ids.tolist(), lengths, strict=True):
        of_row = ids[:length]
        if decode is None:
            texts.append([str(number) for number in of_row])
        else:
            texts.append([decode([number]) for number in of_row])
    return texts


def _model_name(model: Any) -> str:
    """The name of a model, or of its class."""
    return shown_name(name_of_model(model) or type(model).__name__)
