"""Contexts of a feature: tokens, shaded by its activation."""

from sae_lens_ext.viz.pages.data import Context, Quantile
from sae_lens_ext.viz.pages.text import (
    escaped,
    number_text,
    percent_text,
    token_text,
)


def contexts_html(contexts: list[Context], largest: float) -> str:
    """A list of contexts.

    Args:
        contexts: the contexts.
        largest: the activation that is shaded most.
    """
    items = "".join(_item(context, largest) for context in contexts)
    return f'<ol class="contexts">{items}</ol>'


def quantile_html(quantile: Quantile, largest: float) -> str:
    """A quantile, folded; it opens by a click or a key."""
    contexts = contexts_html(list(quantile.contexts), largest)
    return (
        f"<details><summary>{percent_text(quantile.low)} to "
        f"{percent_text(quantile.high)}: activations from "
        f"{number_text(quantile.smallest)} to {number_text(quantile.largest)}"
        f"</summary>{contexts}</details>"
    )


def _item(context: Context, largest: float) -> str:
    tokens = "".join(
        _token(token, value, largest, is_peak=number == context.at)
        for number, (token, value) in enumerate(
            zip(context.tokens, context.activations, strict=True)
        )
    )
    place = escaped(f"row {context.row}, position {context.position}")
    return (
        f'<li><span class="value" title="{place}">{number_text(context.activation)}'
        f'</span> <span class="tokens">{tokens}</span></li>'
    )


def _token(token: str, value: float, largest: float, *, is_peak: bool) -> str:
    text = token_text(token)
    if value <= 0:
        return f"<bdi>{text}</bdi>"
    # Weak activations would be invisible otherwise.
    shade = 0.08 + 0.52 * min(1.0, value / largest)
    tag = "b" if is_peak else "i"
    return (
        f'<{tag} style="--a:{shade:.2f}" title="{number_text(value)}">'
        f"<bdi>{text}</bdi></{tag}>"
    )
