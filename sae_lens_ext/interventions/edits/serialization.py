"""Edits as JSON text, to keep beside a result."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.interventions.edits.base import Edit
from sae_lens_ext.interventions.edits.direction import AddDirection
from sae_lens_ext.interventions.edits.features import (
    Ablate,
    Clamp,
    Patch,
    Scale,
    Steer,
)
from sae_lens_ext.interventions.positions import positions_from_json
from sae_lens_ext.interventions.recording import Run

_KINDS: dict[str, type[Edit]] = {
    "Ablate": Ablate,
    "Steer": Steer,
    "Clamp": Clamp,
    "Scale": Scale,
    "Patch": Patch,
    "AddDirection": AddDirection,
}


def edits_to_json(edits: Iterable[Edit] | Mapping[str, Iterable[Edit]]) -> str:
    """Edits, or edits by site name, as JSON text.

    >>> edits_to_json([Steer(981, by=6.0)])
    '[{"edit": "Steer", "features": [981], "by": 6.0}]'

    Raises:
        InvalidArgument: anything else.
    """
    if isinstance(edits, Mapping):
        by_site = {site: _dicts(site_edits) for site, site_edits in edits.items()}
        return json.dumps(by_site)
    return json.dumps(_dicts(edits))


def edits_from_json(text: str) -> list[Edit] | dict[str, list[Edit]]:
    """The inverse of ``edits_to_json``.

    Raises:
        FormatError: not a list of edits, nor such lists by site name.
    """
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, TypeError) as error:
        raise FormatError(f"edits must be JSON text: {error}") from error

    # A plain list is read as the list of one site without a name.
    is_by_site = isinstance(content, dict)
    by_site = content if is_by_site else {"": content}
    are_lists = all(isinstance(items, list) for items in by_site.values())
    if not are_lists:
        raise FormatError(
            f"edits are written as a list, or as lists by site; this is {text[:60]!r}"
        )

    edits = {}
    for site, items in by_site.items():
        edits[site] = [edit_from_dict(item) for item in items]
    if is_by_site:
        return edits
    return edits[""]


def edit_from_dict(content: Any) -> Edit:
    """The inverse of ``Edit.to_dict``.

    Raises:
        FormatError: not an edit.
    """
    name = None
    if isinstance(content, dict):
        name = content.get("edit")
    # A list, for one, could not be looked up.
    if not isinstance(name, str) or name not in _KINDS:
        raise FormatError(
            f"an edit is an object whose 'edit' is one of {', '.join(_KINDS)}; "
            f"got {content!r}"
        )

    options = {key: value for key, value in content.items() if key != "edit"}
    for key, value in options.items():
        if key in ("positions", "rows"):
            options[key] = positions_from_json(value)
        elif isinstance(value, dict) and set(value) == {"run"}:
            options[key] = Run.from_dict(value["run"])

    kind = _KINDS[name]
    try:
        return kind(**options)
    except (TypeError, InvalidArgument) as error:
        raise FormatError(f"{name} has invalid options: {error}") from error


def _dicts(edits: Iterable[Edit]) -> list[dict[str, Any]]:
    edit_list = list(edits) if isinstance(edits, Iterable) else []
    are_edits = all(isinstance(edit, Edit) for edit in edit_list)
    if not isinstance(edits, Iterable) or not are_edits:
        raise InvalidArgument(
            "edits are a list of edits such as [Ablate(17)], or such lists by site; "
            f"got {edits!r}"
        )
    return [edit.to_dict() for edit in edit_list]
