"""Which tokens a feature promotes and suppresses, by its decoder row alone.

This is the direct path to the logits, w -> norm -> unembedding, without the later
blocks, and without the factor by which the final norm divides at each token. It says
which tokens gain most, and not by how much.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext._optional import require
from sae_lens_ext.features.final_norm import FinalNorm, final_norm
from sae_lens_ext.features.unembedding import Unembedding
from sae_lens_ext.hosts import Host
from sae_lens_ext.interventions.sites import Placement

# Logits that are in memory at a time.
_NUMBERS_AT_A_TIME = 1 << 24
# What these hold, or add, is read by the final norm as a part of the stream.
_IN_THE_STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True, eq=False)
class LogitEffects:
    """The tokens whose logits change most with each feature.

    Attributes:
        note: what the numbers are, or why there are none.
        tensors: ``promoted.ids``, ``promoted.effects``, ``suppressed.ids`` and
            ``suppressed.effects``, each ``[d_sae, n]``, the largest change first; empty
            where there are none.
    """

    note: str
    tensors: dict[str, Tensor] = field(default_factory=dict)


def logit_effects(
    host: Host, place: Placement, n: int, *, progress: bool = False
) -> LogitEffects:
    """The n tokens that each feature promotes and suppresses most.

    Args:
        host: the model.
        place: the SAE at its site.
        n: tokens of either kind.
        progress: whether to show a progress bar.
    """
    sae = place.sae
    assert sae is not None
    if place.site.point not in _IN_THE_STREAM:
        return LogitEffects(
            f"There are none: what is written at {place.site.name} is not a direction "
            "of the residual stream."
        )
    if host.unembed is None or host.d_vocab is None:
        return LogitEffects(
            "There are none: it is not known which module of the model makes the "
            "logits."
        )
    norm = final_norm(host)
    rows = (sae.W_dec / sae.activation_scale).detach().float()
    return LogitEffects(_note(norm), _strongest(host, norm, rows, n, progress))


def _note(norm: FinalNorm | None) -> str:
    if norm is None:
        return (
            "Change of the logits per unit of activation, by the decoder row and the "
            "unembedding alone; the final norm is left out."
        )
    centred = "the mean subtracted and " if norm.centres else ""
    return (
        "Change of the logits per unit of activation, by the decoder row and the "
        f"unembedding alone: with {centred}the gains of the final norm applied, before "
        "it divides by the size of the token's activation."
    )


def _strongest(
    host: Host,
    norm: FinalNorm | None,
    rows: Float[Tensor, "d_sae d_model"],
    n: int,
    progress: bool,
) -> dict[str, Tensor]:
    assert host.unembed is not None
    assert host.d_vocab is not None
    unembedding = Unembedding.of(host.unembed, host.d_vocab, rows.shape[1])
    parts: dict[str, list[Tensor]] = {}
    n_at_a_time = max(1, _NUMBERS_AT_A_TIME // unembedding.n_tokens)
    tqdm = require("tqdm.auto", "Showing progress").tqdm
    with tqdm(
        total=len(rows), desc="logits", unit="feature", disable=not progress
    ) as bar:
        for chunk in rows.split(n_at_a_time):
            directions = chunk if norm is None else norm(chunk)
            for name, part in _strongest_of(unembedding, directions, n).items():
                parts.setdefault(name, []).append(part.cpu())
            bar.update(len(chunk))
    return {name: torch.cat(chunks) for name, chunks in parts.items()}


def _strongest_of(
    unembedding: Unembedding, directions: Float[Tensor, "features d_model"], n: int
) -> dict[str, Tensor]:
    """The tokens that some directions change most: the best of the best of blocks."""
    kinds = (("promoted", True), ("suppressed", False))
    effects: dict[str, list[Tensor]] = {name: [] for name, _ in kinds}
    ids: dict[str, list[Tensor]] = {name: [] for name, _ in kinds}
    for start, end in unembedding.blocks():
        changes = unembedding.changes(directions, start, end)
        for name, is_largest in kinds:
            best = changes.topk(min(n, end - start), dim=1, largest=is_largest)
            effects[name].append(best.values)
            ids[name].append(best.indices + start)
        # Else they would be in memory beside those of the next block.
        del changes

    strongest = {}
    for name, is_largest in kinds:
        values = torch.cat(effects[name], dim=1)
        best = values.topk(min(n, unembedding.d_vocab), dim=1, largest=is_largest)
        chosen = torch.cat(ids[name], dim=1).gather(1, best.indices)
        strongest[f"{name}.ids"] = chosen.int()
        strongest[f"{name}.effects"] = best.values
    return strongest


def direct_ids(effects: LogitEffects) -> Int[Tensor, " token"]:
    """The ids of all tokens that occur in the effects."""
    ids = [part for name, part in effects.tensors.items() if name.endswith(".ids")]
    if not ids:
        return torch.empty(0, dtype=torch.int32)
    return torch.cat(ids).unique()
