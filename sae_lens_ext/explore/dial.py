"""The dial in a notebook: a widget that shows a ``DialState``."""

from collections.abc import Mapping
from typing import Any

from sae_lens_ext._labels import Labels
from sae_lens_ext._optional import require
from sae_lens_ext.explore.state import DialState
from sae_lens_ext.interventions.arithmetic import ErrorTerm
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import SAEs


def dial(
    model: Any,
    sae: SAEs,
    text: Any,
    *,
    k: int | Mapping[str, int] | None = None,
    labels: Labels | None = None,
    error_term: ErrorTerm = False,
    positions: Positions = None,
) -> Any:
    """Turn k on a text in a notebook, and see what the model makes of it.

    ::

        sle.dial(model, sae, "The Eiffel Tower is in", labels={981: "Paris"})

    For the chosen token the widget shows the likeliest next tokens of the bare and of
    the spliced model, and the active features with their labels; for every token how
    far the spliced prediction is from the bare one (KL, nats). Features can be pinned
    and steered. Every change runs the model again, in the notebook's own process. It
    works in JupyterLab, VS Code and Colab; ``widget.state`` is the same without a
    browser.

    Args:
        model: as in ``splice``.
        sae: as in ``splice``; with several sites there is a k for each.
        text: one text, in any form that ``token_batch`` takes.
        k: where the dial begins, for all sites or by site name; None for the largest.
        labels: what features stand for, as text by their number, such as ``sle.labels``
            returns; with several sites, such a mapping by site name.
        error_term: as in ``splice``.
        positions: as in ``splice``.

    Returns:
        A widget of anywidget, with the ``DialState`` as ``state``.

    Raises:
        MissingDependency: anywidget is not installed.
        InvalidArgument: not one text, or invalid labels.
        UnknownSite, ShapeMismatch, InvalidK, UnsupportedHost: as in ``splice``.
    """
    # First, because running the model takes longer than saying what is missing.
    widgets = require("sae_lens_ext.viz.dial_widget", "sle.dial")
    state = DialState(
        model,
        sae,
        text,
        k=k,
        labels=labels,
        error_term=error_term,
        positions=positions,
    )
    widget = widgets.DialWidget(state.view(), state.updated)
    widget.state = state
    return widget
