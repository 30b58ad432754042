"""The nodes that are active in some rows of prompts."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_lens_ext.circuits.alignment import Alignment
from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.encoded import Encoded
from sae_lens_ext.circuits.running.keys import KeySpace
from sae_lens_ext.circuits.running.runner import CircuitRunner
from sae_lens_ext.circuits.table import ERROR


def active_keys(
    analysis: Analysis,
    runs: Runs,
    runner: CircuitRunner,
    alignment: Alignment,
    rows: Sequence[int],
) -> dict[str, Int[Tensor, " nodes"]]:
    """The keys of features that are active in either run, and of errors, by site.

    They are those of the slots that tokens have, in ascending order.

    Args:
        analysis: the model and its SAEs.
        runs: its runs.
        runner: a runner of circuits of these SAEs.
        alignment: that of the slots.
        rows: the rows to look at.
    """
    keys = {}
    for name in analysis.placed:
        in_rows = torch.zeros_like(analysis.masks[name], device="cpu")
        in_rows[list(rows)] = analysis.masks[name][list(rows)].cpu()
        mask = in_rows & alignment.has_nodes(runner.slots)
        parts = [
            _active(encoded, mask, runner.slots, runner.spaces[name])
            for encoded in (runs.clean_codes[name], runs.corrupted_codes[name])
            if encoded is not None
        ]
        keys[name] = torch.cat(parts).unique()
    return keys


def everywhere(
    keys: Int[Tensor, " nodes"], space: KeySpace
) -> Int[Tensor, " features"]:
    """The keys of the same features and errors, wherever they are."""
    return (keys % (space.n_features + 1)).unique()


def _active(
    encoded: Encoded,
    mask: Bool[Tensor, "rows pos"],
    slots: Int[Tensor, "rows pos"],
    space: KeySpace,
) -> Int[Tensor, " nodes"]:
    code = encoded.code.to("cpu")
    is_active = code.values[mask] > 0
    features = code.indices[mask][is_active]
    slots_of_errors = slots[mask]
    slots_of_features = slots_of_errors.unsqueeze(-1).expand_as(is_active)[is_active]
    errors = torch.full_like(slots_of_errors, ERROR)
    return torch.cat(
        [
            space.keys(slots_of_features, features),
            space.keys(slots_of_errors, errors),
        ]
    )
