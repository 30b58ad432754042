"""One HTML page about one SAE: a k slider over everything that k changes. Needs no server and no network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from sae_lens_ext.viz.features import FeatureOnText


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the page shows.

    Attributes:
        title: headline.
        facts: name and value pairs under it, such as the model and the number of features.
        sweep: rows of a ``sweep_k`` table, as dictionaries, rising in k.
        ends: ``ce_bare``, ``ce_mean`` and ``ce_zero`` of that table.
        tokens: the tokens of an example text, special tokens included.
        codes: for every token, its (feature, activation) pairs at the largest k, strongest first.
        predictions: by k, and under "bare", the likeliest next tokens after the text, with probabilities.
        features: the strongest features on the text.
    """

    title: str
    facts: Mapping[str, str]
    sweep: Sequence[Mapping[str, int | float]]
    ends: Mapping[str, float]
    tokens: Sequence[str]
    codes: Sequence[Sequence[tuple[int, float]]]
    predictions: Mapping[str, Sequence[tuple[str, float]]]
    features: Sequence[FeatureOnText]


def render_report(report: Report) -> str:
    """The page as one string of HTML, everything inside.

    Tokens are strings from anywhere, so they enter the page as JSON with every ``<`` escaped, and the page's script only ever
    sets them as text.
    """
    data: Any = asdict(report)
    payload = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    template = (
        files("sae_lens_ext.viz").joinpath("report.html").read_text(encoding="utf-8")
    )
    return template.replace("__REPORT_JSON__", payload)
