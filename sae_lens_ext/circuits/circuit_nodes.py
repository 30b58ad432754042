"""The nodes of a circuit, and what they are nodes of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.circuits.alignment import Alignment
from sae_lens_ext.circuits.selection import NODE, Errors
from sae_lens_ext.circuits.setting import written_site
from sae_lens_ext.circuits.table import ERROR
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import SiteName
from sae_lens_ext.sae import SAE


@dataclass(frozen=True, eq=False, repr=False)
class CircuitNodes:
    """Nodes in an order, the most important first.

    Attributes:
        nodes: a pandas DataFrame with the columns site, position, feature and score.
        ks: the k at each site; None stands for every active feature.
        saes: the SAEs by site, as ``splice`` takes them.
        alignment: what the positions of nodes are counted from.
        positions: the positions whose nodes were looked at, as in ``effects``.
        errors: how errors were chosen, as in ``select``.
        method: what the scores of nodes are from.
    """

    nodes: Any
    ks: Mapping[str, int | None]
    saes: Mapping[SiteName, SAE]
    alignment: Alignment
    positions: Positions
    errors: Errors
    method: str

    def __post_init__(self) -> None:
        """Check that nodes are of the SAEs, in positions of the alignment.

        Raises:
            InvalidArgument: no node, a node twice, a site without an SAE, a feature
                that an SAE does not have, or a position of another alignment.
        """
        nodes = self.nodes
        if not len(nodes):
            raise InvalidArgument("a circuit needs at least one node; got none")
        by_name = {written_site(key): sae for key, sae in self.saes.items()}
        for site, of_site in nodes.groupby("site", sort=False):
            if site not in by_name:
                raise InvalidArgument(
                    f"a node is at {site!r}, and there are SAEs at: "
                    f"{', '.join(by_name)}"
                )
            d_sae = by_name[site].config.d_sae
            is_outside = (of_site["feature"] < ERROR) | (of_site["feature"] >= d_sae)
            if is_outside.any():
                feature = of_site["feature"][is_outside].iloc[0]
                raise InvalidArgument(
                    f"a node is feature {feature} at {site}, whose SAE has features 0 "
                    f"to {d_sae - 1}; {ERROR} is the error"
                )
        for position in nodes["position"].unique():
            self.alignment.slot_of(position)
        if nodes.duplicated(["site", "position", "feature"]).any():
            raise InvalidArgument(
                "a circuit has every node once; got some of them twice"
            )


def checked_nodes(nodes: Any) -> Any:
    """A table of nodes with all columns; a file has positions as text.

    Raises:
        InvalidArgument: a table of another form.
    """
    columns = getattr(nodes, "columns", ())
    if "site" not in columns or "feature" not in columns:
        raise InvalidArgument(
            "nodes must be a DataFrame with the columns site, feature and, except "
            "where nodes are everywhere, position"
        )
    nodes = nodes.reset_index(drop=True).copy()
    if "position" not in columns:
        nodes["position"] = "all"
    if "score" not in columns:
        nodes["score"] = numpy.nan
    features = [arguments.as_integer(feature) for feature in nodes["feature"]]
    if None in features:
        wrong = nodes["feature"].iloc[features.index(None)]
        raise InvalidArgument(
            f"the column feature must hold integers, -1 for errors; got {wrong}"
        )
    nodes["position"] = nodes["position"].map(_position).astype(object)
    return nodes[[*NODE, "score"]]


def _position(value: Any) -> Any:
    text = str(value)
    return int(text) if text.lstrip("-").isdigit() else value
