"""A whole HTML file: style inside, nothing to load."""

from importlib.resources import files

from sae_lens_ext.viz.pages.text import token_text


def asset(name: str) -> str:
    """The text of a file beside this one."""
    path = files("sae_lens_ext.viz.pages").joinpath(name)
    return path.read_text(encoding="utf-8")


def fragment(body: str) -> str:
    """A part of a page, such as a notebook's output, with the style that it needs."""
    return f'<style>{asset("page.css")}</style><div class="sle-page">{body}</div>'


GENERATOR = '<meta name="generator" content="sae-lens-ext">'
"""Says of a file that it is one of this package's."""


def document(title: str, body: str, script: str = "") -> str:
    """A file with a title and a body, and a script at its end."""
    ending = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"{GENERATOR}"
        f"<title>{token_text(title)}</title>"
        f"<style>html,body{{margin:0}}{asset('page.css')}</style></head>"
        f'<body class="sle-page"><main>{body}</main>{ending}</body></html>\n'
    )
