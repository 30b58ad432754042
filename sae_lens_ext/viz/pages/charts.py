"""The charts of a feature's page, as SVG and as bars of HTML."""

from collections.abc import Sequence

from sae_lens_ext.viz.pages.data import Bin
from sae_lens_ext.viz.pages.text import escaped, number_text, percent_text

_WIDTH = 320
_HEIGHT = 120
_BELOW = 18


def histogram_svg(bins: Sequence[Bin]) -> str:
    """A histogram with logarithmic bins of one width; empty without bins."""
    if not bins:
        return ""
    highest = max(each.count for each in bins)
    step = _WIDTH / len(bins)
    bars = []
    for number, each in enumerate(bins):
        height = (_HEIGHT - 4) * each.count / highest
        limits = f"{number_text(each.low)} to {number_text(each.high)}"
        bars.append(
            f'<rect x="{number * step + 0.5:.2f}" y="{_HEIGHT - height:.2f}" '
            f'width="{max(step - 1, 0.5):.2f}" height="{height:.2f}">'
            f"<title>{limits}: {each.count:,}</title></rect>"
        )
    low = number_text(bins[0].low)
    high = number_text(bins[-1].high)
    label = escaped(
        f"Histogram of activations from {low} to {high}; the fullest bin has "
        f"{highest:,}"
    )
    baseline = _HEIGHT + _BELOW - 4
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _BELOW}" role="img" '
        f'aria-label="{label}">{"".join(bars)}'
        f'<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
        f'<text x="0" y="{baseline}">{low}</text>'
        f'<text x="{_WIDTH}" y="{baseline}" text-anchor="end">{high}</text></svg>'
    )


def shares_html(at_k: Sequence[tuple[int, float]]) -> str:
    """The share of activations that is left at each k, as a table with bars."""
    rows = "".join(
        f'<tr><th scope="row">{k}</th><td class="bar">'
        f'<span style="width:{100 * share:.1f}%"></span></td>'
        f"<td>{percent_text(share)}</td></tr>"
        for k, share in at_k
    )
    return (
        '<table class="shares"><thead><tr><th scope="col">k</th>'
        '<th scope="col" colspan="2">activations left</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
