"""What a splice does to the activation at one site, as arithmetic on tensors: no model, no hooks.

With x the activation, c its code at the current k, K what the SAE was trained at, and E the change that edits make to a code:

=============== ==============================================
error term      output
=============== ==============================================
False           decode(c) + decode_linear(E)
True            x + decode_linear(E)
"reference"     x + decode_linear(c - c at K) + decode_linear(E)
=============== ==============================================

E is computed over the edited features alone, so where an edit changes nothing, nothing changes, to the bit.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.hosts import Points
from sae_lens_ext.interventions.dial import KRule, dialled, k_to_encode
from sae_lens_ext.interventions.edits.features import AddDirection, Edit, FeatureEdit
from sae_lens_ext.interventions.positions.window import Window
from sae_lens_ext.interventions.recording import activations_of
from sae_lens_ext.kernels import holds_numbers
from sae_lens_ext.sae import SAE, SparseCode

ErrorTerm = bool | Literal["reference"]

POINTS = (
    "hook_sae_input",
    "hook_sae_acts_post",
    "hook_sae_recons",
    "hook_sae_error",
    "hook_sae_output",
)
"""Names of the points inside a splice, in the order in which they fire; those of SAELens."""


def spliced_activation(
    x: Float[Tensor, "batch pos d_model"],
    sae: SAE,
    dial: int | Tensor | KRule,
    *,
    error_term: ErrorTerm,
    edits: Sequence[Edit],
    window: Window,
    site: str,
    points: Points,
    extrapolate: bool,
) -> tuple[Float[Tensor, "batch pos d_model"], SparseCode]:
    """The activation to put in the place of ``x``, in the wider of its and the SAE's dtypes, and the code of ``x`` before edits.

    Fires the points between ``hook_sae_input`` and ``hook_sae_output``, which belong to the activation at every position.
    """
    k = k_to_encode(sae, dial)
    reference = sae.config.k if error_term == "reference" else k
    full = sae.encode(x, max(k, reference), extrapolate=extrapolate)
    code = dialled(sae, dial, x, full, window)
    # In the wider dtype, because what no edit changes must keep the bits of x.
    out = (
        x.to(torch.promote_types(x.dtype, sae.W_dec.dtype))
        if error_term
        else sae.decode(code)
    )
    if error_term == "reference":
        out = out + sae.contribution(_difference(code, full.prefix(reference)))
    features, change = _change_by_edits(
        sae,
        code,
        [edit for edit in edits if isinstance(edit, FeatureEdit)],
        window,
        site,
    )
    if change is not None:
        out = out + sae.contribution_of(change, features)
    explained = (
        None
        if not error_term
        else full.prefix(reference)
        if error_term == "reference"
        else code
    )
    out = _heard(out, x, sae, code, features, change, explained, points)
    return with_directions(out, edits, window), code


def with_directions(
    x: Float[Tensor, "batch pos d_model"], edits: Sequence[Edit], window: Window
) -> Float[Tensor, "batch pos d_model"]:
    """The activation with directions added to it, where there is no SAE."""
    for edit in edits:
        if isinstance(edit, AddDirection):
            where = window.chosen(edit.positions, edit.rows).to(x.device).unsqueeze(-1)
            x = torch.where(where, x + edit.added(x), x)
    return x


def _difference(code: SparseCode, other: SparseCode) -> SparseCode:
    """``code - other`` for two prefixes of one code, perhaps with values of the first set to 0."""
    longer = max(code, other, key=lambda one: one.k)
    values = [
        torch.nn.functional.pad(one.values, (0, longer.k - one.k))
        for one in (code, other)
    ]
    return SparseCode(values[0] - values[1], longer.indices, code.d_sae)


def _change_by_edits(
    sae: SAE, code: SparseCode, edits: Sequence[FeatureEdit], window: Window, site: str
) -> tuple[list[int], Tensor | None]:
    """The features that edits name, and by how much each changes at every position, ``[batch, pos, features]``."""
    features = sorted({feature for edit in edits for feature in edit.ids})
    if not features:
        return [], None
    before = acts = activations_of(code, features)
    column_of = {feature: column for column, feature in enumerate(features)}
    for edit in edits:
        where = window.chosen(edit.positions, edit.rows).to(
            acts.device
        ) & window.spliced(acts)
        if holds_numbers(where) and not where.any():
            continue
        columns = torch.tensor(
            [column_of[feature] for feature in edit.ids], device=acts.device
        )
        part = acts[..., columns]
        acts = acts.index_copy(
            -1,
            columns,
            torch.where(
                where.unsqueeze(-1), edit.edited(part, where, window, site), part
            ),
        )
    return features, acts - before


def _heard(
    out: Tensor,
    x: Tensor,
    sae: SAE,
    code: SparseCode,
    features: list[int],
    change: Tensor | None,
    explained: SparseCode | None,
    points: Points,
) -> Tensor:
    """The output after listeners had the edited code, the reconstruction and the error, and perhaps changed them.

    ``explained`` is the code whose reconstruction the error term completes, if there is one.
    """

    def edited(clean: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        return clean if change is None else clean + part(change)

    def dense() -> Tensor:
        index = torch.tensor(features, device=code.values.device)
        return edited(
            code.dense(),
            lambda change: torch.zeros_like(code.dense()).index_copy(-1, index, change),
        )

    heard = points.passed("hook_sae_acts_post", dense)
    by_listeners = None
    if heard is not None:
        by_listeners = (heard[1] - heard[0]) @ sae.W_dec / sae.activation_scale
        out = out + by_listeners

    def recons() -> Tensor:
        clean = edited(
            sae.decode(code), lambda change: sae.contribution_of(change, features)
        )
        return clean if by_listeners is None else clean + by_listeners

    heard = points.passed("hook_sae_recons", recons)
    if heard is not None:
        out = out + (heard[1] - heard[0])
    if explained is not None:
        heard = points.passed("hook_sae_error", lambda: x - sae.decode(explained))
        if heard is not None:
            out = out + (heard[1] - heard[0])
    return out
