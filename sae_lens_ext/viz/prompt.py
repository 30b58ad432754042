"""A prompt as one HTML page: its tokens by its features, at the k of a slider."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._labels import feature_labels
from sae_lens_ext.errors import InvalidArgument, NonFinite, ShapeMismatch
from sae_lens_ext.sae import SparseCode


def prompt_page(
    tokens: Sequence[str],
    code: SparseCode,
    *,
    labels: Mapping[int, str | None] | None = None,
    title: str = "Features of a prompt",
) -> str:
    """A self-contained page with a row for every feature and a column for every token.

    ::

        with sle.splice(model, sae) as spliced:
            model(ids)
        code = spliced.codes["blocks.12.hook_resid_post"][0]
        page = prompt_page(tokens, code, labels={981: "Paris"})
        Path("prompt.html").write_text(page, encoding="utf-8")

    A smaller k is a prefix of the code, so the slider needs nothing but the code at the
    largest. The page loads nothing from elsewhere, can be used by keyboard, and follows
    the light or dark scheme of the reader.

    Args:
        tokens: the tokens as text. They may be any strings: they enter the page as data
            and are set as text.
        code: their code at the largest k, ``[pos, k]``.
        labels: what features stand for, by their number.
        title: the headline.

    Raises:
        ShapeMismatch: the code is not that of one text, or of another number of tokens.
        InvalidArgument: tokens, labels or the title are not text.
        NonFinite: the code holds NaN or infinity.
    """
    _check(tokens, code)
    contents = {
        "title": arguments.string(title, "title"),
        "tokens": list(tokens),
        "codes": [_pairs(code[position]) for position in range(len(tokens))],
        "k": code.k,
        "labels": feature_labels(labels),
    }
    payload = json.dumps(contents, allow_nan=False).replace("<", "\\u003c")
    page = files("sae_lens_ext.viz").joinpath("prompt.html")
    return page.read_text(encoding="utf-8").replace("__PROMPT_JSON__", payload)


def _pairs(code: SparseCode) -> list[tuple[int, float]]:
    """The active features of a token, strongest first, with their activations."""
    pairs = zip(code.indices.tolist(), code.values.tolist(), strict=True)
    return [(feature, value) for feature, value in pairs if value > 0]


def _check(tokens: Any, code: SparseCode) -> None:
    is_text = isinstance(tokens, Sequence) and not isinstance(tokens, str)
    if not is_text or not all(isinstance(token, str) for token in tokens):
        raise InvalidArgument("tokens must be a list of strings, one for each token")
    if code.values.ndim != 2 or len(code.values) != len(tokens):
        raise ShapeMismatch(
            f"give the code of these {len(tokens)} tokens, [pos, k], such as code[0]; "
            f"this one is {list(code.values.shape)}"
        )
    if not torch.isfinite(code.values).all():
        raise NonFinite("the code holds NaN or infinity, which no page can show")
