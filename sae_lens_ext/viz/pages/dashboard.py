"""A folder of pages, and one to search and sort them."""

import re
from collections.abc import Sequence
from pathlib import Path

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.formats.paths import checked_path, writing_to
from sae_lens_ext.viz.pages.document import GENERATOR, asset, document
from sae_lens_ext.viz.pages.feature import FeaturePage, feature_name
from sae_lens_ext.viz.pages.text import (
    number_text,
    percent_text,
    token_text,
)

INDEX = "index.html"
# Header, and whether the column is sorted by numbers.
_COLUMNS = (
    ("feature", True),
    ("largest", True),
    ("density", True),
    ("best rank", True),
    ("strongest on", False),
    ("promotes", False),
)
_N_TOKENS = 5
_PAGE = re.compile(r"feature-\d+\.html")


def write_dashboard(
    folder: str | Path, pages: Sequence[FeaturePage], title: str
) -> Path:
    """Write pages as ``feature-981.html``, ..., and ``index.html`` beside them.

    Pages of an earlier dashboard in this folder are deleted. Files of other names stay
    as they are.

    Returns:
        The path of ``index.html``.

    Raises:
        InvalidArgument: the folder cannot be written to, or it has an ``index.html`` of
            something else.
    """
    folder = checked_path(folder, "folder")
    title = arguments.string(title, "title")
    addresses = {page.feature: f"feature-{page.feature}.html" for page in pages}
    contents = {addresses[page.feature]: page.html(addresses) for page in pages}
    # The last, so that it links to nothing that is not there.
    contents[INDEX] = index_html(pages, addresses, title)
    with writing_to(folder, "folder"):
        earlier = _earlier_pages(folder)
        for name, content in contents.items():
            with replacing(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
        for path in earlier:
            if path.name not in contents:
                path.unlink(missing_ok=True)
    return folder / INDEX


def _earlier_pages(folder: Path) -> list[Path]:
    """The pages of features beside the index of an earlier dashboard."""
    index = folder / INDEX
    if not index.exists():
        return []
    if GENERATOR not in index.read_text(encoding="utf-8", errors="replace"):
        raise InvalidArgument(
            f"{index} is not a page of this package, and would be lost; choose another "
            "folder"
        )
    return [path for path in folder.iterdir() if _PAGE.fullmatch(path.name)]


def index_html(
    pages: Sequence[FeaturePage], addresses: dict[int, str], title: str
) -> str:
    """A table of all pages, with a field to search and headers that sort it."""
    headers = "".join(
        f'<th scope="col"><button type="button" data-number="{int(is_number)}">'
        f"{name}</button></th>"
        for name, is_number in _COLUMNS
    )
    rows = "".join(_row(page, addresses) for page in pages)
    body = (
        f"<h1>{token_text(title)}</h1>"
        '<p class="search"><label for="search">Search labels and tokens </label>'
        '<input id="search" type="search" autocomplete="off"> '
        f'<output for="search" id="shown">{len(pages)} features</output></p>'
        '<div class="wide" role="region" aria-label="Features" tabindex="0">'
        f'<table id="features"><thead><tr>{headers}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    return document(title, body, asset("dashboard.js"))


def _row(page: FeaturePage, addresses: dict[int, str]) -> str:
    name = feature_name(page.feature, page.label, addresses[page.feature])
    rank = "" if page.smallest_rank is None else str(page.smallest_rank)
    cells = [
        (page.feature, name),
        (page.largest, number_text(page.largest)),
        (page.density, percent_text(page.density)),
        (page.smallest_rank, rank),
    ]
    numbers = "".join(
        f'<td data-value="{"" if value is None else value}">{text}</td>'
        for value, text in cells
    )
    peaks = [context.tokens[context.at] for context in page.contexts]
    words = (peaks, [token for token, _ in page.promoted])
    texts = "".join(f"<td>{_listed(tokens)}</td>" for tokens in words)
    return f"<tr>{numbers}{texts}</tr>"


def _listed(tokens: Sequence[str]) -> str:
    """Some tokens, each once."""
    distinct = list(dict.fromkeys(tokens))[:_N_TOKENS]
    return " ".join(f"<code>{token_text(token)}</code>" for token in distinct)
