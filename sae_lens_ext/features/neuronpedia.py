"""Labels from Neuronpedia, by its client; those that were found are kept on disk."""

import contextlib
import io
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.formats.atomic import replacing
from sae_lens_ext.formats.locks import locked
from sae_lens_ext.formats.reading import read_object
from sae_lens_ext.formats.user_cache import cache_folder

_SECONDS_TO_WAIT = 5.0
_SOURCE = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def fetched_labels(source: object, features: Sequence[int]) -> dict[int, str | None]:
    """Labels from the cache, or from Neuronpedia; None where there is none.

    Args:
        source: ``model/source``; None where it is not known.
        features: their numbers.

    Raises:
        InvalidArgument: an invalid source.
        MissingDependency: the client is needed and not installed.
    """
    if source is None:
        _warn("this SAE does not say where it is at Neuronpedia; pass source=")
        return dict.fromkeys(features)
    if not isinstance(source, str) or not _SOURCE.fullmatch(source):
        raise InvalidArgument(
            "source must name a model and an SAE at Neuronpedia, such as "
            f"'gemma-2-2b/12-gemmascope-res-16k'; got {source!r}"
        )
    path = cache_folder() / "labels" / f"{source.replace('/', '--')}.json"
    known = _read(path)
    missing = [number for number in features if number not in known]
    if missing:
        new, problem = _asked(source, missing)
        _keep(path, new)
        known |= new
        if problem is not None:
            _warn(
                f"Neuronpedia gave labels for {len(new)} of {len(missing)} features of "
                f"{source}, and no more ({problem})"
            )
    return {number: known.get(number) for number in features}


def _asked(source: str, features: Sequence[int]) -> tuple[dict[int, str], str | None]:
    """The labels that Neuronpedia has, and why it was not asked for the rest.

    It is asked no further once it cannot be reached: every request would wait as long.
    """
    purpose = "Asking Neuronpedia for labels"
    client = require("neuronpedia.requests.sae_feature_request", purpose)
    errors = require("neuronpedia.requests.base_request", purpose)
    refusals = (
        errors.NPKeyMissingError,
        errors.NPUnauthorizedError,
        errors.NPRateLimitError,
        errors.NPInvalidResponseError,
    )
    labels: dict[int, str] = {}
    try:
        request = client.SAEFeatureRequest()
        for number in features:
            text = _description(_answer(request, f"{source}/{number}"))
            if text:
                labels[number] = text
    # Errors of a network are OSErrors, those of an answer that is not JSON ValueErrors.
    except (*refusals, OSError, ValueError) as error:
        (first, *_) = str(error).strip().splitlines() or [type(error).__name__]
        return labels, first
    return labels, None


def _answer(request: Any, path: str) -> Any:
    """What Neuronpedia says of a feature; None where it does not know it."""
    try:
        # The client prints what it does.
        with contextlib.redirect_stdout(io.StringIO()):
            return request.send_request(path, method="GET", timeout=_SECONDS_TO_WAIT)
    except OSError as error:
        # Its error for this has no other mark.
        if "not found" in str(error).lower() and "404" in str(error):
            return None
        raise


def _description(answer: Any) -> str | None:
    explanations = answer.get("explanations") if isinstance(answer, dict) else None
    if not isinstance(explanations, list):
        return None
    texts = [each.get("description") for each in explanations if isinstance(each, dict)]
    return next((text for text in texts if isinstance(text, str) and text), None)


def _read(path: Path) -> dict[int, str]:
    """The labels in the cache; none where that cannot be read."""
    if not path.exists():
        return {}
    try:
        content = read_object(path, "there are no labels")
        return {int(number): str(text) for number, text in content.items()}
    except (FormatError, ValueError):
        return {}


def _keep(path: Path, labels: dict[int, str]) -> None:
    """Add labels to the cache; they are lost where it cannot be written."""
    if not labels:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process may add others.
        with locked(path.parent), replacing(path) as temporary:
            content = {str(number): text for number, text in _read(path).items()}
            content |= {str(number): text for number, text in labels.items()}
            temporary.write_text(json.dumps(content), encoding="utf-8")


def _warn(message: str) -> None:
    warnings.warn(f"{message}; labels are None", stacklevel=4)
