"""The nodes that edges lead to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_ext.circuits.analysis import Runs
from sae_lens_ext.circuits.direct.cuts import Cuts
from sae_lens_ext.circuits.table import ERROR

METRIC = "metric"
"""The name of the metric as a site: one node per row."""


@dataclass(frozen=True)
class Target:
    """A node that edges lead to: a feature, an error at one k, or the metric of a row.

    Attributes:
        row: of the batch.
        site: name of the site, or ``METRIC``.
        position: in the text of the row.
        feature: number of the feature; ``ERROR`` for any other.
        rank: of the feature in the clean code; 0 for any other.
        k: of an error, the k that it is left by; None for any other.
    """

    row: int
    site: str
    position: int
    feature: int = ERROR
    rank: int = 0
    k: int | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """The site, position and feature, by which tables name the node."""
        return (self.site, self.position, self.feature)

    @property
    def is_error(self) -> bool:
        """Whether it is what the features of a code leave."""
        return self.k is not None

    def is_there(self, k: int) -> bool:
        """Whether the node of a site is there at a k."""
        return self.k == k if self.is_error else self.rank < k


def targets_of(
    nodes: Any,
    runs: Runs,
    ks: Mapping[str, Sequence[int]],
    cuts: Cuts,
) -> list[Target]:
    """The targets among some nodes, those that a run reaches first before others.

    Features that are not active in the clean run are none: what closes their gate is
    not linear.

    Args:
        nodes: a DataFrame as of ``Effects.at``.
        runs: the runs that the nodes are of.
        ks: by site, the k at which errors are wanted.
        cuts: tells which come first.
    """
    targets = []
    columns = (nodes[name] for name in ("row", "site", "position", "feature"))
    for row, site, position, feature in zip(*columns, strict=True):
        place = (int(row), str(site), int(position))
        if feature == ERROR:
            targets += [Target(*place, k=k) for k in ks[site]]
            continue
        code = runs.clean_codes[site].code
        token = code[place[0], place[2]]
        is_it = token.indices == int(feature)
        is_active = token.values > 0
        ranks = torch.nonzero(is_it & is_active).flatten()
        for rank in ranks.tolist():
            targets.append(Target(*place, int(feature), rank))

    return sorted(
        targets,
        key=lambda target: cuts.depth(target.site, of_error=target.is_error),
    )
