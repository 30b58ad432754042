"""Strings from anywhere as parts of an HTML page."""

import html

_SHOWN = {"\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d"}


def escaped(text: str) -> str:
    """A string as text of an HTML page, or as the value of an attribute in quotes.

    >>> escaped('<script>alert("1")</script>')
    '&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;'
    """
    return html.escape(text, quote=True)


def token_text(token: str) -> str:
    """A token as text of an HTML page, with signs for what cannot be seen.

    Characters that change the direction of what follows, and halves of characters, are
    among those.
    """
    if not token.isprintable():
        token = "".join(map(_visible, token))
    return escaped(token or "\u2205")


def number_text(value: float) -> str:
    """A number with about three digits.

    >>> number_text(0.01234), number_text(1234.5), number_text(0.0)
    ('0.0123', '1,234', '0')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent_text(share: float) -> str:
    """A share in percent.

    >>> percent_text(0.5), percent_text(0.000012)
    ('50%', '0.0012%')
    """
    return f"{100 * share:.3g}%"


def _visible(character: str) -> str:
    if character in _SHOWN:
        return _SHOWN[character]
    if character == " " or character.isprintable():
        return character
    return "\ufffd"
