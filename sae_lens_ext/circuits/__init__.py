"""Which features of a run a prediction depends on, at every k.

============= ====================================================================
effects       ``effects``: the effect of every feature and error on a metric
metrics/      what an effect is an effect on
result        ``Effects``: the table at any k, from one run
circuit       ``Circuit``: the nodes of the largest effects, run and tested
masks         ``learn_mask``: a circuit by a mask that is learned
by_k          ``circuit_by_k``: circuits at several k, and what they share
edges         ``edges``: what each node gives directly to later ones
edge_result   ``Edges``: the table at any k, and the graph
graphs/       nodes and edges at one k, to keep, to prune and to draw
labelled      ``labelled``: tables with what their features stand for
------------- --------------------------------------------------------------------
prompts       clean and corrupted rows, and the positions of nodes
measurement   a metric of the runs of a model
runs          runs that record activations, the metric, and its gradient
freezing/     attention patterns and norms held at their values in the clean run
analysis      the runs that every method begins with
methods       effects by the gradient of a method
integrated    the mean gradient between corrupted and clean activations
ablation      one node after the other set to its corrupted value
direct/       direct effects of nodes on later nodes
choice        which nodes of a table to look at closely
------------- --------------------------------------------------------------------
encoded       what an SAE says of the activations at a site
projections   what a feature would add to the metric, per unit of activation
nodes         effects of the nodes of one site at every k
table         the same as flat arrays, from which a table at any k is read
------------- --------------------------------------------------------------------
alignment     which tokens of different prompts are the same place
selection     from effects of rows to an order of nodes
node_effects  what effects of every kind have in common, and circuits by them
setting       the SAEs and rows that effects are of
band          the band around a number that comes of many draws
circuit_nodes the nodes of a circuit, and what they are nodes of
running/      the model with the activations of some nodes only
faithfulness/ curves of circuits and of controls
============= ====================================================================
"""

from sae_lens_ext.circuits.ablation import MeasuredEffects
from sae_lens_ext.circuits.by_k import CircuitByK, circuit_by_k
from sae_lens_ext.circuits.circuit import Circuit
from sae_lens_ext.circuits.edge_result import Edges
from sae_lens_ext.circuits.edges import edges
from sae_lens_ext.circuits.effects import effects
from sae_lens_ext.circuits.faithfulness.result import Faithfulness
from sae_lens_ext.circuits.graphs import Graph, GraphEdge, GraphNode
from sae_lens_ext.circuits.labelled import labelled
from sae_lens_ext.circuits.masks import learn_mask
from sae_lens_ext.circuits.metrics import (
    KLDivergence,
    LogitDifference,
    TokenMetric,
    kl,
    logit_difference,
)
from sae_lens_ext.circuits.nodes import SiteEffects
from sae_lens_ext.circuits.result import Effects

__all__ = [
    "Circuit",
    "CircuitByK",
    "Edges",
    "Effects",
    "Faithfulness",
    "Graph",
    "GraphEdge",
    "GraphNode",
    "KLDivergence",
    "LogitDifference",
    "MeasuredEffects",
    "SiteEffects",
    "TokenMetric",
    "circuit_by_k",
    "edges",
    "effects",
    "kl",
    "labelled",
    "learn_mask",
    "logit_difference",
]
