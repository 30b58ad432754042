"""The page of a feature."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.formats.paths import checked_path, writing_to
from sae_lens_ext.viz.pages.charts import histogram_svg, shares_html
from sae_lens_ext.viz.pages.contexts import contexts_html, quantile_html
from sae_lens_ext.viz.pages.data import Bin, Context, Neighbour, Quantile
from sae_lens_ext.viz.pages.document import document, fragment
from sae_lens_ext.viz.pages.text import (
    escaped,
    number_text,
    percent_text,
    token_text,
)


@dataclass(frozen=True, kw_only=True)
class FeaturePage:
    """What is known of a feature; a notebook shows it as a page.

    ``save`` writes the page as one HTML file, which needs neither a network nor a
    server.
    """

    feature: int
    """Its number."""
    label: str | None
    """What it is about, if somebody said so."""
    facts: Mapping[str, str]
    """Names and values under the headline, such as the model and the site."""
    n_active: int
    """Tokens on which it is active."""
    density: float
    """Their share of all tokens."""
    largest: float
    """Its largest activation; 0 if it was never active."""
    histogram: Sequence[Bin]
    """Its activations, in bins of a quarter of an octave."""
    at_k: Sequence[tuple[int, float]]
    """Values of k, and the share of its activations whose rank is below each."""
    smallest_rank: int | None
    """Its best rank on any token, 0 for the strongest; None if it was never active."""
    promoted: Sequence[tuple[str, float]]
    """Tokens whose logits its decoder row raises most."""
    suppressed: Sequence[tuple[str, float]]
    """Tokens whose logits it lowers most."""
    logit_note: str
    """What those numbers are, or why there are none."""
    nearest: Sequence[Neighbour]
    """The features whose decoder rows are most like its own."""
    contexts: Sequence[Context]
    """Its strongest activations, one of each row at most."""
    quantiles: Sequence[Quantile]
    """Some from each quantile of its activations."""

    @property
    def title(self) -> str:
        """Its number and its label."""
        name = f"Feature {self.feature}"
        return name if self.label is None else f"{name}: {self.label}"

    def html(self, pages: Mapping[int, str] | None = None) -> str:
        """The page as a whole HTML file.

        Args:
            pages: addresses of the pages of other features, to which it links.
        """
        back = '<p><a href="index.html">All features</a></p>' if pages else ""
        return document(self.title, back + _body(self, pages or {}))

    def save(self, path: str | Path) -> Path:
        """Write the page as one HTML file; returns its path.

        Raises:
            InvalidArgument: not a path, or one that cannot be written to.
        """
        path = checked_path(path, "path")
        with writing_to(path, "file"), replacing(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        return fragment(_body(self, {}))

    def __repr__(self) -> str:
        """Its title, and how often it is active."""
        return f"FeaturePage({self.title!r}, active on {self.n_active:,} tokens)"


def _body(page: FeaturePage, pages: Mapping[int, str]) -> str:
    parts = [f"<h1>{token_text(page.title)}</h1>", _facts(page)]
    if not page.n_active:
        parts.append("<p>It is active on no token of this text.</p>")
    parts += ['<div class="columns">', *_columns(page, pages), "</div>"]
    if page.contexts:
        strongest = contexts_html(list(page.contexts), page.largest)
        parts += [
            "<h2>Strongest contexts</h2>",
            '<p class="note">One of each row at most. Shade: activation.</p>',
            strongest,
        ]
    if page.quantiles:
        parts += ["<h2>By strength</h2>", _note_of(page.quantiles)]
        parts += [quantile_html(each, page.largest) for each in page.quantiles]
    return "".join(parts)


def _facts(page: FeaturePage) -> str:
    facts = dict(page.facts)
    facts["active on"] = f"{page.n_active:,} ({percent_text(page.density)})"
    if page.smallest_rank is not None:
        facts["largest activation"] = number_text(page.largest)
        facts["best rank"] = str(page.smallest_rank)
    items = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{token_text(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{items}</dl>'


def _columns(page: FeaturePage, pages: Mapping[int, str]) -> list[str]:
    sections = []
    if page.histogram:
        note = '<p class="note">Logarithmic bins.</p>'
        sections.append(("Activations", note + histogram_svg(page.histogram)))
    if page.at_k:
        note = '<p class="note">The share whose rank in the code is below k.</p>'
        sections.append(("At every k", note + shares_html(page.at_k)))
    note = f'<p class="note">{escaped(page.logit_note)}</p>'
    words = _tokens("promoted", page.promoted) + _tokens("suppressed", page.suppressed)
    sections.append(("Next tokens", f'{note}<div class="pair">{words}</div>'))
    if page.nearest:
        note = '<p class="note">Cosine of the decoder rows.</p>'
        sections.append(("Nearest features", note + _nearest(page.nearest, pages)))
    parts = []
    for name, body in sections:
        kind = ' class="double"' if 'class="pair"' in body else ""
        if "<svg" in body:
            # Where a style is dropped, so are drawings, and their texts would be left.
            kind = ' class="chart" hidden'
        parts.append(f"<section{kind}><h2>{name}</h2>{body}</section>")
    return parts


def _tokens(name: str, pairs: Sequence[tuple[str, float]]) -> str:
    if not pairs:
        return ""
    rows = "".join(
        f"<tr><td><bdi>{token_text(token)}</bdi></td><td>{effect:+.3g}</td></tr>"
        for token, effect in pairs
    )
    return f'<table class="tokens-of"><caption>{name}</caption>{rows}</table>'


def _nearest(neighbours: Sequence[Neighbour], pages: Mapping[int, str]) -> str:
    rows = []
    for each in neighbours:
        name = feature_name(each.feature, each.label, pages.get(each.feature))
        rows.append(f"<tr><td>{name}</td><td>{each.cosine:.2f}</td></tr>")
    return f'<table class="tokens-of">{"".join(rows)}</table>'


def feature_name(feature: int, label: str | None, address: str | None) -> str:
    """A feature's number with its label, as a link where it has a page."""
    number = str(feature)
    if address is not None:
        number = f'<a href="{escaped(address)}">{feature}</a>'
    return number if label is None else f"{number} <span>{token_text(label)}</span>"


def _note_of(quantiles: Collection[Quantile]) -> str:
    is_sampled = any(each.is_sampled for each in quantiles)
    source = "a uniform sample of its activations" if is_sampled else "all activations"
    return f'<p class="note">Quantiles of {source}, the strongest first.</p>'
