"""Checks of tensors that the kernels share: types, shapes, dtypes and devices.

Messages use the parameter names of the public functions. ``[..., k]`` stands for any
leading axes.
"""

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]

from sae_lens_ext.errors import InvalidArgument, InvalidK, ShapeMismatch
from sae_lens_ext.kernels._backend import is_batched

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_encoder(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    centre: Tensor | None = None,
    threshold: Tensor | None = None,
) -> None:
    """Check the tensors of an encoder.

    Args:
        x: [..., d_model].
        W_enc: [d_model, d_sae].
        b_enc: [d_sae].
        centre: [d_model].
        threshold: [d_sae], or one number for all features.

    Raises:
        InvalidArgument: not tensors of one floating-point dtype on one device.
        ShapeMismatch: their shapes do not fit together.
    """
    tensors = {"x": x, "W_enc": W_enc, "b_enc": b_enc}
    if centre is not None:
        tensors["centre"] = centre
    if threshold is not None:
        tensors["threshold"] = threshold
    _check_types(**tensors)

    if W_enc.ndim != 2 or 0 in W_enc.shape:
        raise ShapeMismatch(
            "W_enc must be [d_model, d_sae], neither of them 0; "
            f"got {list(W_enc.shape)}"
        )

    d_model, d_sae = W_enc.shape
    if x.ndim < 1 or x.shape[-1] != d_model:
        raise ShapeMismatch(
            f"the last axis of x must be d_model={d_model}, as in W_enc "
            f"{list(W_enc.shape)}; got x {list(x.shape)}"
        )
    if list(b_enc.shape) != [d_sae]:
        raise ShapeMismatch(
            f"b_enc must be [d_sae={d_sae}], as in W_enc {list(W_enc.shape)}; "
            f"got {list(b_enc.shape)}"
        )
    if centre is not None and list(centre.shape) != [d_model]:
        raise ShapeMismatch(
            f"centre must be [d_model={d_model}], as in W_enc {list(W_enc.shape)}; "
            f"got {list(centre.shape)}"
        )
    if threshold is not None and list(threshold.shape) not in ([], [d_sae]):
        raise ShapeMismatch(
            f"threshold must be [d_sae={d_sae}], as in W_enc {list(W_enc.shape)}, or "
            f"a single number; got {list(threshold.shape)}"
        )
    _check_dtypes_and_devices(**tensors)


def check_decoder(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
) -> None:
    """Check a code and the tensors of a decoder.

    Args:
        values: [..., k].
        indices: [..., k].
        W_dec: [d_sae, d_model].
        b_dec: [d_model].

    Raises:
        InvalidArgument: not tensors of one floating-point dtype, and integer indices,
            on one device.
        InvalidK: k is 0.
        ShapeMismatch: their shapes do not fit together.
    """
    _check_types(values=values, indices=indices, W_dec=W_dec, b_dec=b_dec)

    if W_dec.ndim != 2 or 0 in W_dec.shape:
        raise ShapeMismatch(
            "W_dec must be [d_sae, d_model], neither of them 0; "
            f"got {list(W_dec.shape)}"
        )
    if values.ndim < 1 or values.shape != indices.shape:
        raise ShapeMismatch(
            "values and indices must have one shape [..., k]; "
            f"got {list(values.shape)} and {list(indices.shape)}"
        )
    if indices.dtype not in _INTEGERS:
        raise InvalidArgument(
            f"indices must be a tensor of integers; got {indices.dtype}"
        )
    if values.shape[-1] == 0:
        raise InvalidK(
            "a code needs at least one feature per token; got values of width 0"
        )
    if b_dec.shape != W_dec.shape[1:]:
        raise ShapeMismatch(
            f"b_dec must be [d_model={W_dec.shape[1]}], as in W_dec "
            f"{list(W_dec.shape)}; got {list(b_dec.shape)}"
        )
    _check_dtypes_and_devices(values=values, W_dec=W_dec, b_dec=b_dec)
    _check_devices(values, indices=indices)


def check_features(indices: Tensor, W_dec: Tensor) -> None:
    """Check that ``W_dec [d_sae, d_model]`` has a row for each index.

    Only where that needs no waiting: not on a GPU, and not on tensors without numbers.

    Raises:
        InvalidArgument: it does not.
    """
    is_readable = indices.device.type == "cpu" and holds_numbers(indices)
    if not indices.numel() or not is_readable:
        return

    # The fast versions read and write rows by these numbers without looking.
    smallest, largest = (int(bound) for bound in indices.aminmax())
    if smallest < 0 or largest >= W_dec.shape[0]:
        raise InvalidArgument(
            f"indices must be features from 0 to {W_dec.shape[0] - 1}, the rows of "
            f"W_dec; they run from {smallest} to {largest}"
        )


def check_target(target: Tensor, values: Tensor, W_dec: Tensor) -> None:
    """Check that ``target`` has one row ``[d_model]`` per token of ``values``.

    Raises:
        InvalidArgument: not a tensor of the dtype and on the device of ``W_dec``.
        ShapeMismatch: its shape does not fit.
    """
    _check_types(target=target)

    expected_shape = [*values.shape[:-1], W_dec.shape[1]]
    if list(target.shape) != expected_shape:
        raise ShapeMismatch(
            f"target must be [..., d_model] = {expected_shape}, one row per token of "
            f"values; got {list(target.shape)}"
        )
    _check_dtypes_and_devices(target=target, W_dec=W_dec)


def check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axes: str = "..., pos",
) -> None:
    """Check queries, keys and values.

    Args:
        q: [..., pos, d].
        k: [..., pos, d].
        v: [..., pos, d_v].
        axes: all axes but the last, for messages; without ``pos`` where the tensors are
            of one token.

    Raises:
        InvalidArgument: not tensors of one floating-point dtype on one device.
        ShapeMismatch: their shapes do not fit together.
    """
    _check_types(q=q, k=k, v=v)

    n_axes = 2 if "pos" in axes else 1
    if q.ndim < n_axes or q.shape[-1] == 0 or q.shape != k.shape:
        raise ShapeMismatch(
            f"q and k must have one shape [{axes}, d], d not 0; "
            f"got {list(q.shape)} and {list(k.shape)}"
        )
    if v.ndim < 1 or v.shape[:-1] != k.shape[:-1]:
        raise ShapeMismatch(
            f"v must be [{axes}, d_v] with the leading axes of k {list(k.shape)}; "
            f"got {list(v.shape)}"
        )
    _check_dtypes_and_devices(q=q, k=k, v=v)


def check_attention_state(
    kv: Tensor,
    k: Tensor,
    v: Tensor,
    n_features: int,
    dtype: torch.dtype,
) -> None:
    """Check that a state of linear attention fits values ``v [..., pos, d_v]``.

    Args:
        kv: [..., n_features, d_v].
        k: [..., n_features].
        v: the values.
        n_features: of the feature map.
        dtype: in which sums are computed.

    Raises:
        InvalidArgument: another dtype, or another device than that of ``v``.
        ShapeMismatch: its shapes do not fit.
    """
    k_shape = [*v.shape[:-2], n_features]
    kv_shape = [*k_shape, v.shape[-1]]
    remedy = "take it from the .state of quadratic_attention_with_state"

    if list(k.shape) != k_shape or list(kv.shape) != kv_shape:
        raise ShapeMismatch(
            f"the state must be kv {kv_shape} and k {k_shape} for these values, and "
            f"coefficients; got {list(kv.shape)} and {list(k.shape)}; {remedy}"
        )
    if {kv.dtype, k.dtype} != {dtype}:
        raise InvalidArgument(
            f"the state must be {dtype}, in which sums are made; "
            f"got {kv.dtype} and {k.dtype}; {remedy}"
        )
    _check_devices(v, kv=kv, k=k)


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor's numbers can be read.

    They cannot while torch.compile traces, under vmap, and in a tensor that only has a
    shape.
    """
    if torch.compiler.is_compiling():
        return False
    if is_batched(tensor) or functorch.is_legacy_batchedtensor(tensor):
        return False
    # Those of torch.func.functionalize have no class of their own.
    if torch._is_functional_tensor(tensor):  # pyright: ignore[reportPrivateImportUsage]
        return False

    names = ("FakeTensor", "FunctionalTensor")
    return tensor.device.type != "meta" and type(tensor).__name__ not in names


def _check_types(**tensors: object) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise InvalidArgument(
                f"{name} must be a torch tensor; "
                f"got an object of type {type(tensor).__name__}"
            )


def _check_dtypes_and_devices(**tensors: Tensor) -> None:
    first = next(iter(tensors.values()))
    dtypes_match = all(tensor.dtype == first.dtype for tensor in tensors.values())
    if not dtypes_match or first.dtype not in _FLOATS:
        dtypes = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise InvalidArgument(
            f"these tensors must share one floating-point dtype of at least 16 bits; "
            f"got {dtypes}; cast them"
        )
    _check_devices(first, **tensors)


def _check_devices(first: Tensor, **others: Tensor) -> None:
    for name, tensor in others.items():
        if tensor.device != first.device:
            raise InvalidArgument(
                f"all tensors must be on one device; {name} is on {tensor.device}, "
                f"others on {first.device}: move it"
            )
