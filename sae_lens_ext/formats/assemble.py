"""From the tensors of any layout to a checkpoint, checked once for all layouts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_lens_ext._types import Kind, TokenNorm
from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.folding import rounded_down
from sae_lens_ext.formats.reading import check_size, check_tensors, refuse_non_finite

_ADVICE = (
    "restore the file; or, if its own numbers are finite, convert it to float32: what "
    "its options ask for overflows its dtype"
)


def assembled(
    where: Path | str,
    *,
    kind: Kind,
    tensors: Mapping[str, Tensor],
    k: object = None,
    apply_b_dec_to_input: bool,
    d_out: int | None = None,
    token_norm: TokenNorm = "none",
    levels: Sequence[int] = (),
    normalization: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> SAECheckpoint:
    """The checkpoint with these parts, whose tensors must fit together.

    Args:
        where: the file or object that they come from, for messages.
        kind: see ``SAECheckpoint``, as for all that follow.
        tensors: under the names of ``SAECheckpoint``; a threshold may have another
            dtype.
        k: for kind ``topk``.
        apply_b_dec_to_input: whether ``b_dec`` is subtracted before encoding.
        d_out: for a transcoder.
        token_norm: how every token is normalised.
        levels: the values of k that its training looked at.
        normalization: the constants that ``tensors`` already contain.
        metadata: everything else; a fact of None is left out.

    Raises:
        FormatError: the tensors do not fit together, k is not an integer from 1 to
            d_sae, or the combination cannot be computed.
        NonFinite: a tensor holds NaN or infinity.
    """
    weights = dict(tensors)
    d_model, d_sae = _sizes(where, weights)
    _check_combination(where, d_out, apply_b_dec_to_input, token_norm)

    width = d_model if d_out is None else d_out
    expected_shapes = {
        "W_enc": [d_model, d_sae],
        "b_enc": [d_sae],
        "W_dec": [d_sae, width],
        "b_dec": [width],
    }
    if kind in ("jumprelu", "batchtopk"):
        expected_shapes["threshold"] = [d_sae]
    if "W_skip" in weights and d_out is not None:
        expected_shapes["W_skip"] = [d_model, width]
    check_tensors(
        where,
        weights,
        expected_shapes,
        by="W_enc",
        of_any_dtype=["threshold"],
    )

    if "threshold" in weights:
        weights["threshold"] = rounded_down(
            weights["threshold"], weights["W_enc"].dtype
        )
    refuse_non_finite(weights, str(where), _ADVICE)

    return SAECheckpoint(
        d_model=d_model,
        d_sae=d_sae,
        kind=kind,
        k=_checked_k(where, k, d_sae) if kind == "topk" else None,
        apply_b_dec_to_input=apply_b_dec_to_input,
        tensors=weights,
        d_out=d_out,
        token_norm=token_norm,
        levels=levels,
        normalization=normalization or {},
        metadata=json_values(where, metadata or {}),
    )


def json_values(where: Path | str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as JSON would give them back, without facts of None.

    NaN and infinity, which JSON does not have, become None: a statistic that diverged
    is no reason to refuse an SAE.

    Raises:
        FormatError: any other value that JSON does not have.
    """
    stated = {key: value for key, value in metadata.items() if value is not None}
    try:
        return json.loads(json.dumps(stated), parse_constant=lambda _: None)
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(
            f"{where}: its metadata must be JSON values ({error})"
        ) from error


def _sizes(where: Path | str, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """d_model and d_sae, by the encoder."""
    W_enc = tensors.get("W_enc")
    if not isinstance(W_enc, Tensor) or W_enc.ndim != 2 or not W_enc.numel():
        shape = "missing" if W_enc is None else list(W_enc.shape)
        raise FormatError(f"{where}: W_enc must be [d_model, d_sae]; it is {shape}")
    return W_enc.shape[0], W_enc.shape[1]


def _check_combination(
    where: Path | str,
    d_out: int | None,
    apply_b_dec_to_input: bool,
    token_norm: TokenNorm,
) -> None:
    if d_out is None:
        return
    if apply_b_dec_to_input:
        raise FormatError(
            f"{where} describes a transcoder with apply_b_dec_to_input, but its b_dec "
            "has the width of what it writes, not of what it reads"
        )
    if token_norm != "none":
        raise FormatError(
            f"{where} describes a transcoder with the per-token normalisation "
            f"{token_norm!r}; in which units its output would be is not defined: "
            "without it, every activation would be wrong"
        )


def _checked_k(where: Path | str, k: object, d_sae: int) -> int:
    number = check_size(where, "k", k)
    if number > d_sae:
        raise FormatError(f"{where}: k={number} is more than d_sae={d_sae} features")
    return number


def transposed(tensor: Tensor) -> Tensor:
    """A matrix stored the other way round; anything else as it is, to be refused."""
    return tensor.T if tensor.ndim == 2 else tensor
