"""States of streams: what they have in common."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.training.stream.base import SiteStatistics


def check_identity(
    state: Mapping[str, Any], kind: str, identity: Mapping[str, Any]
) -> None:
    """Check that a state is of a stream that was made like this one.

    Args:
        state: the facts of the state.
        kind: the class of this stream.
        identity: the settings of this stream.

    Raises:
        FormatError: it is of another one; the message has the differences.
    """
    before = state.get("identity")
    if state.get("kind") != kind or not isinstance(before, Mapping):
        raise FormatError(
            f"the state is of a {state.get('kind')}, and this stream is a {kind}"
        )
    changes = differences(before, identity)
    if changes:
        raise FormatError(
            f"the state is of another stream: {'; '.join(changes)}; give the same "
            "settings to go on"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of settings, a phrase for each.

    >>> differences({"seed": 1, "text": {"rows": 5}}, {"seed": 2, "text": {"rows": 6}})
    ['seed is 1 there and 2 here', 'text: rows is 5 there and 6 here']
    """
    changes = []
    for name in sorted({*before, *now}):
        there = before.get(name, _MISSING)
        here = now.get(name, _MISSING)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            changes += [f"{name}: {change}" for change in differences(there, here)]
        elif there != here:
            changes.append(f"{name} is {_shown(there)} there and {_shown(here)} here")
    return changes


def statistics_as_tensors(
    statistics: Mapping[str, SiteStatistics],
) -> dict[str, Tensor]:
    """The constants of every site under flat names."""
    return {
        f"{field}:{site}": getattr(constants, field)
        for site, constants in statistics.items()
        for field in SiteStatistics._fields
    }


def statistics_of_tensors(
    tensors: Mapping[str, Tensor], sites: tuple[str, ...]
) -> dict[str, SiteStatistics]:
    """The inverse of ``statistics_as_tensors``.

    Raises:
        FormatError: constants of a site are missing.
    """
    try:
        return {
            site: SiteStatistics(
                *(tensors[f"{field}:{site}"] for field in SiteStatistics._fields)
            )
            for site in sites
        }
    except KeyError as error:
        raise FormatError(
            f"the statistics of a site are missing: {error.args[0]}"
        ) from error


_MISSING = object()


def _shown(value: object) -> str:
    return "missing" if value is _MISSING else repr(value)
