"""What effects of every kind have in common, and the choice of a circuit by them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

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

SiteK = int | None
EffectsK = SiteK | Mapping[str, SiteK]
"""A k for every site, or by site name; None stands for the largest."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NodeEffects(ABC):
    """Effects of nodes of some rows on a metric.

    Attributes:
        method: how the effects were computed.
        setting: the SAEs, and the rows of tokens.
        metric_clean: the metric of the clean run: one number, or one per row.
        metric_corrupted: that of the corrupted run; None without one.
        freeze: what was held at its values in the clean run.
    """

    method: str
    setting: Setting
    metric_clean: Float[Tensor, "*rows"]
    metric_corrupted: Float[Tensor, "*rows"] | None = None
    freeze: tuple[str, ...] = ()

    @abstractmethod
    def at(self, k: Any = None) -> Any:
        """The effects at one k, as a pandas DataFrame with one row per node."""
        ...

    @abstractmethod
    def circuit_ks(self, k: Any) -> dict[str, int | None]:
        """The k of each site in a circuit that is chosen at ``k``."""
        ...

    def select(
        self,
        k: EffectsK = None,
        *,
        budget: int | None = None,
        threshold: float | None = None,
        cumulative: float | None = None,
        align: Align = None,
        errors: Errors = "ranked",
        rows: Sequence[int] | None = None,
    ) -> Circuit:
        """The nodes of the largest effects, as a circuit that can be run and tested.

        ::

            circuit = effects.select(k=8, budget=50)
            circuit.faithfulness(model, clean, corrupted, metric=metric).table()

        ============== ================================================================
        ``align``      nodes, and the score that they are chosen by
        ============== ================================================================
        ``"start"``    a feature at a position of the text, 0 being its first token;
                       the mean of its effect over rows
        ``"end"``      the same with -1 for the last token
        ``{name: i}``  a feature at a named position, one for all rows or one per row
                       (``{"subject": [3, 4, 3], "verb": -1}``); tokens without a name
                       have no nodes, and are always ablated
        ``"all"``      a feature wherever it is; the mean over rows of the sum over
                       positions
        ============== ================================================================

        By default that is ``"start"`` where all rows have one length, as prompts of a
        template do, and ``"all"`` where they differ. A feature that is not active in a
        row, or was not measured there, counts as 0. Nodes are chosen by the absolute
        value.

        Args:
            k: as in ``at``.
            budget: how many nodes to take, errors included; all where there are fewer.
            threshold: take nodes whose score is at least this, by absolute value.
            cumulative: take the fewest nodes with this share of the sum of absolute
                scores, above 0 and up to 1. Without any of the three, all are taken.
            align: a row of the table above.
            errors: ``"ranked"`` for errors as nodes like any other; ``"all"`` for the
                error of every site, everywhere, before any other node; ``"none"`` for
                circuits of features alone.
            rows: the rows that the mean is taken over; None means all. Others are left
                for a test.

        Raises:
            InvalidK, UnknownSite: as in ``at``.
            InvalidArgument: more than one of budget, threshold and cumulative; a
                threshold above every effect; no node at all; or an invalid option.

        Source: Marks et al. 2024 (means over examples, by position in templates and
            summed over positions elsewhere).
        """
        arguments.choice(errors, "errors", ERRORS)
        lengths = self.setting.lengths
        alignment = Alignment.of(align, lengths)
        nodes = ranked(
            self.at(k),
            alignment,
            lengths,
            rows=checked_rows(rows, len(lengths)),
            errors=errors,
        )
        if nodes.empty:
            hint = "; errors='ranked' has errors as nodes" if errors == "none" else ""
            raise InvalidArgument(
                "there is no node to choose: no feature is active at the positions of "
                f"these rows at k={k}{hint}"
            )

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
            self.circuit_ks(k),
            self.setting.saes,
            alignment,
            self.setting.positions,
            errors,
            self.method,
        )
