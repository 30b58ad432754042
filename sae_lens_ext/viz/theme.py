"""The colours of pictures, on light and on dark paper."""

from dataclasses import dataclass
from typing import Any, Literal

from sae_lens_ext.errors import InvalidArgument

Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class Palette:
    """The colours of a picture.

    Attributes:
        paper: the background.
        ink: text and outlines.
        muted: names of rows, and errors.
        line: lines between rows.
        positive: what raises the metric.
        negative: what lowers it.
        lines: colours of several lines, told apart also without red and green.
    """

    paper: str
    ink: str
    muted: str
    line: str
    positive: str
    negative: str
    lines: tuple[str, ...]


# Blue and orange are told apart without red and green.
PALETTES = {
    "light": Palette(
        paper="#ffffff",
        ink="#1f2430",
        muted="#6b7280",
        line="#e5e7eb",
        positive="#2563eb",
        negative="#d97706",
        lines=("#2563eb", "#d97706", "#059669", "#7c3aed", "#db2777", "#475569"),
    ),
    "dark": Palette(
        paper="#14171f",
        ink="#e5e7eb",
        muted="#9ca3af",
        line="#2b313d",
        positive="#60a5fa",
        negative="#fbbf24",
        lines=("#60a5fa", "#fbbf24", "#34d399", "#a78bfa", "#f472b6", "#cbd5e1"),
    ),
}


def checked_theme(theme: str) -> Palette:
    """The colours of a theme.

    Raises:
        InvalidArgument: no theme has that name.
    """
    if theme not in PALETTES:
        raise InvalidArgument(
            f"theme must be one of {', '.join(PALETTES)}; got {theme!r}"
        )
    return PALETTES[theme]


def paint_axes(
    axes: Any,
    palette: Palette,
) -> None:
    """Give a panel of matplotlib the colours, and no frame above and on the right."""
    axes.set_facecolor(palette.paper)
    axes.tick_params(colors=palette.ink)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(palette.ink)
    for side, spine in axes.spines.items():
        spine.set_color(palette.muted)
        spine.set_visible(side in ("left", "bottom"))
