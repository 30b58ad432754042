"""A circuit from a table of effects."""

from collections.abc import Mapping
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.circuits.alignment import Align, Alignment
from sae_lens_ext.circuits.circuit import Circuit
from sae_lens_ext.circuits.selection import (
    ERRORS,
    Errors,
    checked_rows,
    n_chosen,
    ranked,
)
from sae_lens_ext.circuits.setting import Setting
from sae_lens_ext.circuits.table import ERROR
from sae_lens_ext.errors import InvalidArgument


def chosen(
    table: Any,
    setting: Setting | None,
    ks: Mapping[str, int | None],
    method: str,
    *,
    budget: int | None,
    threshold: float | None,
    cumulative: float | None,
    align: Align,
    errors: Errors,
    rows: Any,
) -> Circuit:
    """The circuit of the largest mean effects; see ``Effects.select``.

    Args:
        table: effects of nodes of single rows, as of ``Effects.at``.
        setting: what they are effects of.
        ks: the k of each site.
        method: how they were computed.
        budget: as in ``Effects.select``, and so are the others.
        threshold: as there.
        cumulative: as there.
        align: as there.
        errors: as there.
        rows: as there.
    """
    arguments.choice(errors, "errors", ERRORS)
    if setting is None:
        raise InvalidArgument(
            "these effects do not know their SAEs; use those that circuits.effects "
            "returns"
        )
    alignment = Alignment.of(align, setting.lengths)
    numbers = checked_rows(rows, len(setting.lengths))
    nodes = ranked(table, alignment, setting.lengths, rows=numbers, errors=errors)
    n_always = int((nodes["feature"] == ERROR).sum()) if errors == "all" else 0
    n_nodes = n_chosen(
        nodes["score"].iloc[n_always:],
        n_always,
        budget=budget,
        threshold=threshold,
        cumulative=cumulative,
    )
    return Circuit(
        nodes.head(n_nodes).drop(columns="rank"),
        ks,
        setting.saes,
        alignment,
        setting.positions,
        errors,
        method,
    )
