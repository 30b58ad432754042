"""Results as figures and pages. Takes data, never a model."""

from sae_lens_ext.viz.attribution_figure import plot_attribution
from sae_lens_ext.viz.circuit_figure import plot_circuit_by_k
from sae_lens_ext.viz.faithfulness_figure import plot_faithfulness
from sae_lens_ext.viz.features import FeatureOnText, strongest_features
from sae_lens_ext.viz.frontier import plot_frontier
from sae_lens_ext.viz.graph_figure import plot_graph
from sae_lens_ext.viz.graph_page import render_graph
from sae_lens_ext.viz.prompt import prompt_page
from sae_lens_ext.viz.report import Report, render_report
from sae_lens_ext.viz.sweep_text import sweep_as_text

__all__ = [
    "FeatureOnText",
    "Report",
    "plot_attribution",
    "plot_circuit_by_k",
    "plot_faithfulness",
    "plot_frontier",
    "plot_graph",
    "prompt_page",
    "render_graph",
    "render_report",
    "strongest_features",
    "sweep_as_text",
]
