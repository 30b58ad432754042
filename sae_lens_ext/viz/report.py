"""One HTML page about one SAE: a k slider over everything that k changes.

The page needs no server and no network.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files

from sae_lens_ext.viz.features import FeatureOnText


@dataclass(frozen=True, kw_only=True)
class Report:
    """The contents of the page."""

    title: str
    """Headline."""
    facts: Mapping[str, str]
    """Names and values under it, such as the model and the number of features."""
    sweep: Sequence[Mapping[str, int | float]]
    """Rows of a ``sweep_k`` table, as dictionaries, rising in k."""
    ends: Mapping[str, float]
    """``ce_bare``, ``ce_mean`` and ``ce_zero`` of that table."""
    tokens: Sequence[str]
    """The tokens of an example text, special tokens included."""
    codes: Sequence[Sequence[tuple[int, float]]]
    """For every token, its (feature, activation) pairs at the largest k, strongest
    first."""
    predictions: Mapping[str, Sequence[tuple[str, float]]]
    """By k, and under ``"bare"``: the likeliest next tokens after the text, with
    probabilities."""
    features: Sequence[FeatureOnText]
    """The strongest features on the text."""


def render_report(report: Report) -> str:
    """Render the page as one string of self-contained HTML.

    Tokens are strings from anywhere, so they enter the page as JSON with every ``<``
    escaped, and the page's script only ever sets them as text.
    """
    payload = json.dumps(asdict(report), allow_nan=False).replace("<", "\\u003c")
    page = files("sae_lens_ext.viz").joinpath("report.html")
    return page.read_text(encoding="utf-8").replace("__REPORT_JSON__", payload)
