"""Which nodes of a table to look at closely."""

from collections.abc import Sequence
from typing import Any

from sae_lens_ext.circuits.circuit_nodes import CircuitNodes
from sae_lens_ext.errors import InvalidArgument

KEYS = ["row", "site", "position", "feature"]
"""The columns of a table of nodes that name a node."""


def chosen_nodes(
    table: Any,
    *,
    budget: int | None,
    nodes: Any,
    k: Any,
    lengths: Sequence[int],
) -> Any:
    """The rows of a table that are certain nodes, or have the largest effects.

    Args:
        table: the nodes that are there, a DataFrame as of ``Effects.at``.
        budget: how many to choose, the largest by size first; where ``nodes`` is None.
        nodes: the nodes to find in the table, which come in this order; or a circuit,
            for those of its nodes that each row has.
        k: the k of the table, for messages.
        lengths: the number of tokens of each row.

    Raises:
        InvalidArgument: ``nodes`` is neither a DataFrame of nodes nor a circuit, or
            not all of them, or none of the circuit, are in the table.
    """
    if nodes is None:
        by_size = table["effect"].abs().sort_values(ascending=False, kind="stable")
        return table.loc[by_size.index[:budget]]
    if isinstance(nodes, CircuitNodes):
        return _of_circuit(table, nodes, lengths)

    columns = getattr(nodes, "columns", ())
    if not len(columns) or any(key not in columns for key in KEYS) or not len(nodes):
        raise InvalidArgument(
            "nodes must be a DataFrame with at least one row and the columns "
            f"{', '.join(KEYS)}, such as effects.at(k).nlargest(20, 'effect'), or a "
            "circuit, such as effects.select(k=8, budget=20)"
        )
    merged = nodes[KEYS].merge(table, on=KEYS, how="left")
    missing = merged["effect"].isna()
    if missing.any():
        node = merged.loc[missing, KEYS].iloc[0].to_dict()
        raise InvalidArgument(
            f"{int(missing.sum())} of the nodes are not there at k={k}, the first of "
            f"them {node}; choose them from the table at this k"
        )
    return merged


def _of_circuit(table: Any, circuit: CircuitNodes, lengths: Sequence[int]) -> Any:
    """The rows of a table that are nodes of a circuit, in any row of the batch."""
    slot_of = circuit.alignment.slot_of
    names = zip(
        circuit.nodes["site"],
        circuit.nodes["position"],
        circuit.nodes["feature"],
        strict=True,
    )
    keys = {(site, slot_of(position), feature) for site, position, feature in names}

    slots = circuit.alignment.slots(lengths).numpy()
    here = zip(
        table["site"],
        slots[table["row"].to_numpy(), table["position"].to_numpy()].tolist(),
        table["feature"],
        strict=True,
    )
    is_node = [key in keys for key in here]
    if not any(is_node):
        raise InvalidArgument(
            "these rows have none of the nodes of the circuit: its features are not "
            "active at its positions; use the rows that it was chosen on"
        )
    return table[is_node]
