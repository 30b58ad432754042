"""How much variance an SAE in training leaves unexplained, at several k."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, NonFinite, ShapeMismatch
from sae_lens_ext.kernels import sparse_decode
from sae_lens_ext.sae import SAE, SparseCode
from sae_lens_ext.training.activations import Activations
from sae_lens_ext.training.normalization import Batch
from sae_lens_ext.training.parallel import ALONE, Ranks
from sae_lens_ext.training.stream import ActivationStream
from sae_lens_ext.training.stream.checks import check_batch

_TOKENS_AT_ONCE = 1024

HeldOut = (
    Float[Tensor, "held_out d_model"]
    | Activations
    | Mapping[str, Float[Tensor, "_held_out _d"]]
    | ActivationStream
)
"""Held-out activations: of the one site, by site, or as a stream to take some from."""


def held_out_batch(
    held_out: HeldOut, widths: Mapping[str, int], n_tokens: int
) -> Batch:
    """At most ``n_tokens`` held-out activations of every site.

    Args:
        held_out: in any of the forms of ``HeldOut``.
        widths: of the activations of the sites that are trained on, the input first.
        n_tokens: tokens to keep.

    Raises:
        InvalidArgument: a site is missing, there are no tokens, or all are equal.
        ShapeMismatch: activations have another width, or sites other numbers of tokens.
        NonFinite: activations contain NaN or infinity.
    """
    sites = list(widths)
    batch = _by_site(held_out, sites[0], n_tokens)
    for site in sites:
        if site not in batch:
            raise InvalidArgument(
                f"held_out has no activations of {site}, which is trained on; it has "
                f"those of {', '.join(batch)}"
            )
    kept = {site: batch[site][:n_tokens] for site in sites}
    shapes = {site: list(tensor.shape) for site, tensor in kept.items()}
    lengths = {len(tensor) for tensor in kept.values()}
    expected = {site: [max(lengths), width] for site, width in widths.items()}
    if shapes != expected:
        raise ShapeMismatch(
            f"held_out must have shapes {expected}, [token, width]; got {shapes}"
        )
    if lengths == {0}:
        raise InvalidArgument(
            "held_out has no tokens; give some, a stream that was not read to its end, "
            "or leave it out"
        )
    for site, tensor in kept.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NonFinite(f"held_out holds NaN or infinity at {site}")
        if bool((tensor == tensor[0]).all()):
            raise InvalidArgument(
                f"all tokens of held_out are equal at {site}, so there is no variance "
                "to explain; give more of them"
            )
    return kept


def _by_site(held_out: Any, site: str, n_tokens: int) -> Batch:
    """The activations by site; those that come without a name are of ``site``."""
    if isinstance(held_out, ActivationStream):
        return _taken(held_out, n_tokens)
    if isinstance(held_out, Activations):
        return {held_out.hook_name: held_out.values}

    batch = held_out if isinstance(held_out, Mapping) else {site: held_out}
    for name, values in batch.items():
        is_valid = isinstance(values, Tensor) and values.is_floating_point()
        if not is_valid or values.is_meta or values.layout != torch.strided:
            raise InvalidArgument(
                "held_out must be an ordinary tensor of floats [token, d_model], "
                "Activations, tensors by site, or a stream; got an object of type "
                f"{type(values).__name__} for {name}"
            )
    return batch


def _taken(stream: ActivationStream, n_tokens: int) -> Batch:
    """The next tokens of a stream, which goes back to where it was.

    So another training that gets the same stream is measured on the same tokens. They
    are copied, because a stream may use its memory again.
    """
    before = stream.state()
    parts: dict[str, list[Tensor]] = {site: [] for site in stream.sites}
    n_left = n_tokens
    while n_left > 0:
        n_wanted = min(n_left, _TOKENS_AT_ONCE)
        batch = stream.next_batch(n_wanted)
        widths = {site: stream.width(site) for site in stream.sites}
        check_batch(batch, widths, n_wanted)
        n_given = len(batch[stream.sites[0]])
        if n_given == 0:
            break
        for site, tensor in batch.items():
            parts[site].append(tensor.detach().cpu().clone())
        n_left -= n_given
    stream.restore(before)
    # A stream that gave nothing has no parts to put together.
    return {
        site: torch.cat(tensors) if tensors else torch.zeros(0, stream.width(site))
        for site, tensors in parts.items()
    }


def _as_they_are(errors: Tensor) -> Tensor:
    return errors


@torch.no_grad()
def fvu_at(
    sae: SAE,
    u: Float[Tensor, "token d_model"],
    target: Float[Tensor, "token d_out"] | None,
    ks: Sequence[int | None],
    ranks: Ranks = ALONE,
    *,
    in_plain_units: Callable[[Tensor], Tensor] = _as_they_are,
) -> dict[int | None, float]:
    """The fraction of variance unexplained at several k.

    The variance of each coordinate is taken about its mean over these tokens; see
    ``FVU``. Every token is encoded once, and once more for a k of None.

    Args:
        sae: the SAE or transcoder in training.
        u: its inputs, centred and scaled.
        target: what it should reconstruct, centred and scaled; None means ``u``.
        ks: the values of k; None stands for every active feature.
        ranks: the processes that share the training; each answers for a part of the
            tokens, which all of them have.
        in_plain_units: takes the change of a metric's coordinates out of differences of
            targets, ``[token, d_out]``; see ``Normalization.errors``.
    """
    target = u if target is None else target
    device = sae.b_dec.device
    seen = ranks.seen(sae)
    # The mean first: sums of squares without it would be differences of large numbers.
    mean = sum(part.double().sum(0) for part in target.split(_TOKENS_AT_ONCE))
    mean = mean / torch.tensor(float(len(target)))

    variance = 0.0
    errors: dict[int | None, float] = dict.fromkeys(ks, 0.0)
    for u_part, target_part in zip(
        u.split(_TOKENS_AT_ONCE), target.split(_TOKENS_AT_ONCE), strict=True
    ):
        centred = in_plain_units(target_part.double() - mean)
        variance += centred.double().square().sum().item()
        share = ranks.share(len(u_part))
        part_errors = _errors_at(
            seen,
            share.of(u_part).to(device),
            share.of(target_part).to(device),
            ks,
            in_plain_units,
        )
        if share.weight:
            errors = {k: errors[k] + error for k, error in part_errors.items()}

    totals = ranks.total(list(errors.values()))
    errors = dict(zip(errors, totals, strict=True))
    return {
        k: error / variance if variance else float("nan") for k, error in errors.items()
    }


def _errors_at(
    sae: SAE,
    u: Float[Tensor, "token d_model"],
    target: Float[Tensor, "token d_out"],
    ks: Sequence[int | None],
    in_plain_units: Callable[[Tensor], Tensor],
) -> dict[int | None, float]:
    """The summed squared error at several k."""
    residual = target - sae.b_dec
    added = sae.skip(u)
    if added is not None:
        residual = residual - added

    codes: dict[int | None, SparseCode] = {}
    numbers = [k for k in ks if k is not None]
    if numbers:
        code = sae.encode_normalized(u, max(numbers))
        codes |= {k: code.prefix(k) for k in numbers}
    if None in ks:
        codes[None] = sae.encode_normalized(u, None)

    without_bias = torch.zeros_like(sae.b_dec)
    errors: dict[int | None, float] = {}
    for k, code in codes.items():
        part = sparse_decode(code.values, code.indices, sae.W_dec, without_bias)
        error = in_plain_units(residual - part)
        errors[k] = error.double().square().sum().item()
    return errors
