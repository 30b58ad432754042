"""The arithmetic of a splice at one site, on tensors.

Models and hooks are not known here. With x the activation, c its code at the current k,
K the k that the SAE was trained at (every active feature, if it was not trained at
one), and E the change that edits make to a code:

=============== ==============================================
error term      output
=============== ==============================================
False           decode(c) + decode_linear(E)
True            x + decode_linear(E)
"reference"     x + decode_linear(c - c at K) + decode_linear(E)
=============== ==============================================

A transcoder encodes the activation at its input and adds its skip connection to
decode(c); x is the activation at its output.

E is computed over the edited features alone, so where an edit changes nothing, nothing
changes, to the bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sae_lens_ext.hosts import Points
from sae_lens_ext.interventions.dial import CheckedK, code_at_k, largest_k
from sae_lens_ext.interventions.edits import AddDirection, Edit, FeatureEdit
from sae_lens_ext.interventions.encoding import encode_at
from sae_lens_ext.interventions.positions import Window
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
"""Names of the points inside a splice, as in SAELens, in the order they fire in."""


@dataclass(frozen=True)
class CodeChange:
    """The change that edits make to a code: a few columns of the dense code.

    Attributes:
        features: the edited features, in ascending order.
        amounts: the change of each of them at every token.
    """

    features: list[int]
    amounts: Float[Tensor, "batch pos features"]

    def dense_like(
        self, dense: Float[Tensor, "batch pos d_sae"]
    ) -> Float[Tensor, "batch pos d_sae"]:
        """The change with a column for every feature, zeros at those not edited."""
        columns = torch.tensor(self.features, device=self.amounts.device)
        zeros = torch.zeros_like(dense)
        return zeros.index_copy(-1, columns, self.amounts)


def spliced_activation(
    x: Float[Tensor, "batch pos d_model"],
    sae: SAE,
    k: CheckedK,
    *,
    error_term: ErrorTerm,
    edits: Sequence[Edit],
    window: Window,
    site: str,
    points: Points,
    extrapolate: bool,
    source: Float[Tensor, "batch pos d_in"] | None = None,
) -> tuple[Float[Tensor, "batch pos d_model"], SparseCode]:
    """The activation to put in the place of ``x``.

    Fires the points between ``hook_sae_input`` and ``hook_sae_output``, which belong to
    the activation at every position.

    Args:
        x: the activation.
        sae: the SAE to splice.
        k: the features to keep, from ``checked_k``.
        error_term: the row of the table above.
        edits: what to do to features, and directions to add.
        window: the positions of the run in progress.
        site: name of the site.
        points: where listeners can read and change what is computed.
        extrapolate: whether k may exceed the k that the SAE was trained at.
        source: the activation at the input of a transcoder; None for an autoencoder.

    Returns:
        The output, in the wider of the dtypes of ``x`` and the SAE, and the code of
        ``x`` before edits.
    """
    encoded = x if source is None else source
    skipped = sae.skip(encoded)
    target = x if skipped is None else x - skipped

    k_to_encode = largest_k(sae, k)
    if error_term == "reference":
        k_to_encode = _larger(k_to_encode, sae.config.k)
    full_code = encode_at(
        sae,
        encoded,
        window.mask,
        k_to_encode,
        extrapolate=extrapolate,
    )
    code = code_at_k(sae, k, target, full_code, window)

    # The code whose reconstruction the error term completes.
    explained = None
    if error_term == "reference":
        explained = full_code.at_most(sae.config.k)
    elif error_term:
        explained = code

    if error_term:
        # In the wider dtype, because without an edit the bits of x must stay.
        wide = torch.promote_types(x.dtype, sae.W_dec.dtype)
        out = x.to(wide)
    else:
        out = _reconstruction(sae, code, skipped)
    if error_term == "reference" and explained is not None:
        difference = _difference(code, explained)
        out = out + sae.contribution(difference)

    feature_edits = [edit for edit in edits if isinstance(edit, FeatureEdit)]
    change = _change_by_edits(code, feature_edits, window, site)
    if change is not None:
        out = out + sae.contribution_of(change.amounts, change.features, code)

    out = _after_listeners(out, x, sae, code, skipped, change, explained, points)
    return with_directions(out, edits, window), code


def with_directions(
    x: Float[Tensor, "batch pos d_model"], edits: Sequence[Edit], window: Window
) -> Float[Tensor, "batch pos d_model"]:
    """The activation with the directions among ``edits`` added to it."""
    for edit in edits:
        if isinstance(edit, AddDirection):
            mask = window.select(edit.positions, edit.rows)
            mask = mask.to(x.device)
            mask = mask.unsqueeze(-1)
            # where() instead of a sum with zeros, which would turn -0.0 into 0.0.
            moved = x + edit.added(x)
            x = torch.where(mask, moved, x)
    return x


def _reconstruction(sae: SAE, code: SparseCode, skipped: Tensor | None) -> Tensor:
    """What the SAE writes, with what its skip connection adds."""
    recons = sae.decode(code)
    return recons if skipped is None else recons + skipped


def _difference(first: SparseCode, second: SparseCode) -> SparseCode:
    """``first - second`` for two prefixes of one code.

    Values of ``first`` may have been set to 0 since.
    """
    longer = first if first.k >= second.k else second
    # Padded with zeros to one length: the longer code has the indices of both.
    first_values = F.pad(first.values, (0, longer.k - first.k))
    second_values = F.pad(second.values, (0, longer.k - second.k))
    return replace(longer, values=first_values - second_values)


def _larger(first: int | None, second: int | None) -> int | None:
    """The larger of two numbers of features; None stands for every active one."""
    if first is None or second is None:
        return None
    return max(first, second)


def _change_by_edits(
    code: SparseCode,
    edits: Sequence[FeatureEdit],
    window: Window,
    site: str,
) -> CodeChange | None:
    """What the edits change, one after the other; None without edits."""
    features = sorted({feature for edit in edits for feature in edit.ids})
    if not features:
        return None

    # A few columns, so that the dense code of all features is not built.
    column_of = {feature: column for column, feature in enumerate(features)}
    before = activations_of(code, features)
    device = before.device
    is_spliced = window.spliced_mask(device)

    acts = before
    for edit in edits:
        selected = window.select(edit.positions, edit.rows)
        mask = selected.to(device) & is_spliced
        # Skipped, because an edit raises if values it depends on are not known.
        if holds_numbers(mask) and not mask.any():
            continue

        column_numbers = [column_of[feature] for feature in edit.ids]
        columns = torch.tensor(column_numbers, device=device)
        old = acts[..., columns]
        new = edit.edited(old, mask, window, site)
        new = torch.where(mask.unsqueeze(-1), new, old)
        acts = acts.index_copy(-1, columns, new)
    return CodeChange(features, acts - before)


def _after_listeners(
    out: Tensor,
    x: Tensor,
    sae: SAE,
    code: SparseCode,
    skipped: Tensor | None,
    change: CodeChange | None,
    explained: SparseCode | None,
    points: Points,
) -> Tensor:
    """The output after listeners saw the parts it is made of, and perhaps changed them.

    A part is computed only where a listener is at its point. A change of a part is
    added to the output, so that the output keeps its bits where nothing was changed.

    Args:
        out: the output so far.
        x: the activation.
        sae: the SAE that is spliced.
        code: the code before edits.
        skipped: what a skip connection adds.
        change: what edits change.
        explained: the code whose reconstruction the error term completes; None without
            an error term.
        points: where the listeners are.
    """

    def edited_acts() -> Tensor:
        dense = code.dense()
        if change is None:
            return dense
        return dense + change.dense_like(dense)

    changed_acts = points.passed("hook_sae_acts_post", edited_acts)
    by_listeners = None
    if changed_acts is not None:
        acts_before, acts_after = changed_acts
        difference = acts_after - acts_before
        by_listeners = sae.contribution_of(difference, slice(None), code)
        out = out + by_listeners

    def edited_recons() -> Tensor:
        recons = _reconstruction(sae, code, skipped)
        if change is not None:
            recons = recons + sae.contribution_of(change.amounts, change.features, code)
        if by_listeners is None:
            return recons
        return recons + by_listeners

    changed_recons = points.passed("hook_sae_recons", edited_recons)
    if changed_recons is not None:
        recons_before, recons_after = changed_recons
        out = out + (recons_after - recons_before)

    if explained is None:
        return out

    def error() -> Tensor:
        return x - _reconstruction(sae, explained, skipped)

    changed_error = points.passed("hook_sae_error", error)
    if changed_error is not None:
        error_before, error_after = changed_error
        out = out + (error_after - error_before)
    return out
