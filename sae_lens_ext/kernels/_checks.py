"""Checks of arguments that the kernels share: kinds, shapes, dtypes, devices. Messages use the names the caller used."""

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue] - it has no types

from sae_lens_ext.errors import InvalidArgument, InvalidK, ShapeMismatch
from sae_lens_ext.kernels._backend import is_batched

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_encoder(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None = None
) -> None:
    """Refuse encoder tensors that do not fit: ``x [..., d_model]``, ``W_enc [d_model, d_sae]``, ``b_enc [d_sae]``, ``centre [d_model]``."""
    given = {
        "x": x,
        "W_enc": W_enc,
        "b_enc": b_enc,
        **({} if centre is None else {"centre": centre}),
    }
    _refuse_other_than_tensors(**given)
    if W_enc.ndim != 2 or 0 in W_enc.shape:
        raise ShapeMismatch(
            f"W_enc must be [d_model, d_sae], neither of them 0; got {list(W_enc.shape)}"
        )
    if x.ndim < 1 or x.shape[-1] != W_enc.shape[0]:
        raise ShapeMismatch(
            f"the last axis of x must be d_model={W_enc.shape[0]}, as in W_enc {list(W_enc.shape)}; got x {list(x.shape)}"
        )
    if b_enc.shape != W_enc.shape[1:]:
        raise ShapeMismatch(
            f"b_enc must be [d_sae={W_enc.shape[1]}], as in W_enc {list(W_enc.shape)}; got {list(b_enc.shape)}"
        )
    if centre is not None and centre.shape != W_enc.shape[:1]:
        raise ShapeMismatch(
            f"centre must be [d_model={W_enc.shape[0]}], as in W_enc {list(W_enc.shape)}; got {list(centre.shape)}"
        )
    _refuse_mixed(**given)


def check_decoder(
    values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor
) -> None:
    """Refuse decoder tensors that do not fit: ``values`` and ``indices [..., k]``, ``W_dec [d_sae, d_model]``, ``b_dec [d_model]``."""
    _refuse_other_than_tensors(values=values, indices=indices, W_dec=W_dec, b_dec=b_dec)
    if W_dec.ndim != 2 or 0 in W_dec.shape:
        raise ShapeMismatch(
            f"W_dec must be [d_sae, d_model], neither of them 0; got {list(W_dec.shape)}"
        )
    if values.ndim < 1 or values.shape != indices.shape:
        raise ShapeMismatch(
            f"values and indices must have one shape [..., k]; got {list(values.shape)} and {list(indices.shape)}"
        )
    if indices.dtype not in _INTEGERS:
        raise InvalidArgument(f"indices must hold whole numbers; got {indices.dtype}")
    if values.shape[-1] == 0:
        raise InvalidK(
            "a code needs at least one feature per token; got values of width 0"
        )
    if b_dec.shape != W_dec.shape[1:]:
        raise ShapeMismatch(
            f"b_dec must be [d_model={W_dec.shape[1]}], as in W_dec {list(W_dec.shape)}; got {list(b_dec.shape)}"
        )
    _refuse_mixed(values=values, W_dec=W_dec, b_dec=b_dec)
    _refuse_far(values, indices=indices)


def check_features(indices: Tensor, W_dec: Tensor) -> None:
    """Refuse indices of features that ``W_dec [d_sae, d_model]`` does not have, where they can be looked at without waiting."""
    if indices.numel() and indices.device.type == "cpu" and holds_numbers(indices):
        # The fast versions read and write rows by these numbers without looking.
        smallest, largest = (int(bound) for bound in indices.aminmax())
        if smallest < 0 or largest >= W_dec.shape[0]:
            raise InvalidArgument(
                f"indices must be features from 0 to {W_dec.shape[0] - 1}, by W_dec; they run from {smallest} to {largest}"
            )


def check_target(target: Tensor, values: Tensor, W_dec: Tensor) -> None:
    """Refuse a target that is not one row ``[..., d_model]`` for every token of ``values``."""
    _refuse_other_than_tensors(target=target)
    wanted = [*values.shape[:-1], W_dec.shape[1]]
    if list(target.shape) != wanted:
        raise ShapeMismatch(
            f"target must be [..., d_model] = {wanted}, one row per token of values; got {list(target.shape)}"
        )
    _refuse_mixed(target=target, W_dec=W_dec)


def check_attention(q: Tensor, k: Tensor, v: Tensor, axes: str = "..., pos") -> None:
    """Refuse tensors that do not fit: ``q`` and ``k [..., pos, d]``, ``v [..., pos, d_v]``; ``axes`` are those before the last."""
    _refuse_other_than_tensors(q=q, k=k, v=v)
    if q.ndim < (2 if "pos" in axes else 1) or q.shape[-1] == 0 or q.shape != k.shape:
        raise ShapeMismatch(
            f"q and k must have one shape [{axes}, d], d not 0; got {list(q.shape)} and {list(k.shape)}"
        )
    if v.ndim < 1 or v.shape[:-1] != k.shape[:-1]:
        raise ShapeMismatch(
            f"v must be [{axes}, d_v] with the leading axes of k {list(k.shape)}; got {list(v.shape)}"
        )
    _refuse_mixed(q=q, k=k, v=v)


def check_attention_state(
    kv: Tensor, k: Tensor, v: Tensor, n_features: int, dtype: torch.dtype
) -> None:
    """Refuse a state that does not fit values ``v [..., pos, d_v]``: ``kv [..., features, d_v]``, ``k [..., features]``."""
    wanted, remedy = (
        [*v.shape[:-2], n_features],
        "take it from the .state of quadratic_attention_with_state",
    )
    if list(k.shape) != wanted or list(kv.shape) != [*wanted, v.shape[-1]]:
        raise ShapeMismatch(
            f"the state must be kv {[*wanted, v.shape[-1]]} and k {wanted} for these values, and coefficients; "
            f"got {list(kv.shape)} and {list(k.shape)}; {remedy}"
        )
    if {kv.dtype, k.dtype} != {dtype}:
        raise InvalidArgument(
            f"the state must be {dtype}, in which sums are made; got {kv.dtype} and {k.dtype}; {remedy}"
        )
    _refuse_far(v, kv=kv, k=k)


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor's numbers can be looked at: not while torch.compile traces, nor under vmap, nor in one that has only a shape."""
    if (
        torch.compiler.is_compiling()
        or is_batched(tensor)
        or functorch.is_legacy_batchedtensor(tensor)
    ):
        return False
    return tensor.device.type != "meta" and type(tensor).__name__ not in (
        "FakeTensor",
        "FunctionalTensor",
    )


def _refuse_other_than_tensors(**given: object) -> None:
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise InvalidArgument(
                f"{name} must be a torch tensor; got a {type(tensor).__name__}"
            )


def _refuse_mixed(**tensors: Tensor) -> None:
    first = next(iter(tensors.values()))
    if (
        any(tensor.dtype != first.dtype for tensor in tensors.values())
        or first.dtype not in _FLOATS
    ):
        found = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise InvalidArgument(
            f"these must be of one floating dtype, and are {found}; cast them to one of 16 bits or more"
        )
    _refuse_far(first, **tensors)


def _refuse_far(first: Tensor, **others: Tensor) -> None:
    for name, tensor in others.items():
        if tensor.device != first.device:
            raise InvalidArgument(
                f"all tensors must be on one device; {name} is on {tensor.device}, others on {first.device}: move it"
            )
