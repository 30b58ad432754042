"""The effect of one node after the other, measured by an intervention.

Every node takes a forward pass of its row, several of them as rows of one batch. With
the error term kept, setting a node to its corrupted value changes the activation by a
vector that is known, so nothing is encoded again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.encoded import Encoded
from sae_lens_ext.circuits.node_effects import NodeEffects
from sae_lens_ext.circuits.nodes import baseline
from sae_lens_ext.circuits.runs import replaced_logits
from sae_lens_ext.circuits.setting import written_site
from sae_lens_ext.circuits.table import ERROR
from sae_lens_ext.errors import InvalidK
from sae_lens_ext.interventions.sites import Placement
from sae_lens_ext.sae import SAE


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasuredEffects(NodeEffects):
    """Effects of some nodes at one k, each measured; made by ``circuits.effects``.

    Attributes:
        k: the k at which nodes are those of the code.
        table: see ``at``.
        method: ``"ablation"``.
        setting: as in ``Effects``, and so are the others.
        metric_clean: as there.
        metric_corrupted: as there.
        freeze: as there.
    """

    k: int
    table: Any

    def at(self, k: int | None = None) -> Any:
        """The measured effects, as a pandas DataFrame with one row per node.

        The columns are those of ``Effects.at``, and ``attribution``, the first-order
        effect of the same node.

        Raises:
            InvalidK: another k than that of the measurement.
        """
        if k not in (None, self.k):
            raise InvalidK(
                f"these effects were measured at k={self.k}; got {k!r}; call "
                "circuits.effects again to measure at another k"
            )
        return self.table.copy()

    def circuit_ks(self, k: int | None) -> dict[str, int | None]:
        """See ``NodeEffects.circuit_ks``."""
        return dict.fromkeys(map(written_site, self.setting.saes), self.k)

    def __repr__(self) -> str:
        """How many nodes, at which k."""
        return f"MeasuredEffects({len(self.table)} nodes at k={self.k})"


def measured(
    analysis: Analysis, runs: Runs, nodes: Any, k: int, *, batch_size: int
) -> Any:
    """A table of nodes with their measured effects.

    Args:
        analysis: the model, the rows and the metric.
        runs: the runs that nodes take their values from.
        nodes: the nodes, a DataFrame as of ``Effects.at``.
        k: the k that they are of.
        batch_size: how many nodes to ablate in one run.
    """
    measurement = analysis.measurement
    logits = runs.clean.logits.clone()
    clean = measurement.values(logits)
    effects = []
    for start in range(0, len(nodes), batch_size):
        part = nodes.iloc[start : start + batch_size]
        rows = torch.tensor(part["row"].to_numpy(dtype=numpy.int64))
        replacements = {
            place.site: _subtraction(part, name, place, runs, k)
            for name, place in analysis.placed.items()
            if (part["site"] == name).any()
        }
        new_logits = replaced_logits(
            analysis.host,
            analysis.prompts.clean[rows.tolist()],
            replacements,
            measurement,
            during=analysis.freezing.replaying(rows),
        )

        # The metric is of the whole batch, and the other rows stay as they were.
        for row, of_row in zip(rows.tolist(), new_logits, strict=True):
            kept = logits[row].clone()
            logits[row] = of_row
            change = clean - measurement.values(logits)
            logits[row] = kept
            effects.append(float(change[row] if change.ndim else change))

    table = nodes.rename(columns={"effect": "attribution"}).reset_index(drop=True)
    table.insert(table.columns.get_loc("attribution"), "effect", numpy.array(effects))
    return table


def _subtraction(
    nodes: Any, name: str, place: Placement, runs: Runs, k: int
) -> Callable[[Tensor], Tensor]:
    """What takes the nodes of a site out of a batch that has one node per row."""
    (of_site,) = (nodes["site"] == name).to_numpy().nonzero()
    here = nodes.iloc[of_site]
    clean = runs.clean_codes[name]
    rows, positions, features = (
        torch.tensor(here[column].to_numpy(dtype=numpy.int64), device=clean.x.device)
        for column in ("row", "position", "feature")
    )
    assert place.sae is not None
    with torch.no_grad():
        changes = node_changes(
            place.sae,
            clean,
            runs.corrupted_codes[name],
            rows,
            positions,
            features,
            k,
        )
    batch_rows = torch.from_numpy(of_site)

    def subtract(x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, changes.dtype)).clone()
        wide[batch_rows, positions.to(x.device)] -= changes.to(wide)
        return wide.to(x.dtype)

    return subtract


def node_changes(
    sae: SAE,
    clean: Encoded,
    corrupted: Encoded | None,
    rows: Int[Tensor, " nodes"],
    positions: Int[Tensor, " nodes"],
    features: Int[Tensor, " nodes"],
    k: int,
) -> Float[Tensor, "nodes d_out"]:
    """What each node at k adds to the activation, beyond its corrupted value.

    Args:
        sae: the SAE of the site.
        clean: the activations of the clean run.
        corrupted: those of the corrupted run, or None.
        rows: the row of each node.
        positions: its position in the text.
        features: its feature, or the number of the error.
        k: the k of the code.
    """
    is_error = (features == ERROR).unsqueeze(-1)

    def written(encoded: Encoded) -> Tensor:
        code = encoded.code.at_most(k)[rows, positions]
        # One feature, or for an error all of them.
        is_chosen = (code.indices == features.unsqueeze(-1)) | is_error
        return sae.contribution(replace(code, values=code.values * is_chosen))

    of_features = written(clean)
    if corrupted is not None:
        of_features = of_features - written(corrupted)

    # An error is everything but the features.
    everything = (clean.x - baseline(clean, corrupted))[rows, positions]
    return torch.where(is_error, everything - of_features, of_features)
