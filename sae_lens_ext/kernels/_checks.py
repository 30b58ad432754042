"""Shape checks that the kernels share; each message names the tensors by the names the caller used."""

import torch
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, InvalidK, ShapeMismatch
from sae_lens_ext.kernels._backend import is_batched

_INTEGERS = ("torch.int64", "torch.int32", "torch.int16", "torch.uint8", "torch.int8")


def check_encoder(x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None = None) -> None:
    """Refuse encoder tensors that do not fit: ``x [..., d_model]``, ``W_enc [d_model, d_sae]``, ``b_enc [d_sae]``, ``centre [d_model]``."""
    if W_enc.ndim != 2:
        raise ShapeMismatch(f"W_enc must be [d_model, d_sae]; got {list(W_enc.shape)}")
    if x.ndim < 1 or x.shape[-1] != W_enc.shape[0]:
        raise ShapeMismatch(f"the last axis of x must be d_model={W_enc.shape[0]}, as in W_enc {list(W_enc.shape)}; got x {list(x.shape)}")
    if b_enc.shape != W_enc.shape[1:]:
        raise ShapeMismatch(f"b_enc must be [d_sae={W_enc.shape[1]}], as in W_enc {list(W_enc.shape)}; got {list(b_enc.shape)}")
    if centre is not None and centre.shape != W_enc.shape[:1]:
        raise ShapeMismatch(f"centre must be [d_model={W_enc.shape[0]}], as in W_enc {list(W_enc.shape)}; got {list(centre.shape)}")
    _refuse_mixed(x=x, W_enc=W_enc, b_enc=b_enc, **({} if centre is None else {"centre": centre}))


def check_decoder(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor) -> None:
    """Refuse decoder tensors that do not fit: ``values`` and ``indices [..., k]``, ``W_dec [d_sae, d_model]``, ``b_dec [d_model]``."""
    if W_dec.ndim != 2:
        raise ShapeMismatch(f"W_dec must be [d_sae, d_model]; got {list(W_dec.shape)}")
    if values.ndim < 1 or values.shape != indices.shape:
        raise ShapeMismatch(f"values and indices must have one shape [..., k]; got {list(values.shape)} and {list(indices.shape)}")
    if str(indices.dtype) not in _INTEGERS:
        raise InvalidArgument(f"indices must hold whole numbers; got {indices.dtype}")
    if values.shape[-1] == 0:
        raise InvalidK("a code needs at least one feature per token; got values of width 0")
    if b_dec.shape != W_dec.shape[1:]:
        raise ShapeMismatch(f"b_dec must be [d_model={W_dec.shape[1]}], as in W_dec {list(W_dec.shape)}; got {list(b_dec.shape)}")
    _refuse_mixed(values=values, W_dec=W_dec, b_dec=b_dec)


def check_features(indices: Tensor, W_dec: Tensor) -> None:
    """Refuse indices of features that ``W_dec [d_sae, d_model]`` does not have, where they can be looked at without waiting."""
    if indices.numel() and indices.device.type == "cpu" and holds_numbers(indices):
        # The fast versions read and write rows by these numbers without looking.
        smallest, largest = (int(bound) for bound in indices.aminmax())
        if smallest < 0 or largest >= W_dec.shape[0]:
            raise InvalidArgument(
                f"indices must be features from 0 to {W_dec.shape[0] - 1}, by W_dec; they run from {smallest} to {largest}"
            )


def check_target(target: Tensor, W_dec: Tensor) -> None:
    """Refuse a target of another dtype than the decoder's."""
    _refuse_mixed(target=target, W_dec=W_dec)


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor's numbers can be looked at: not while torch.compile traces, nor under vmap, nor in one that has only a shape."""
    if torch.compiler.is_compiling() or is_batched(tensor):
        return False
    return tensor.device.type != "meta" and type(tensor).__name__ not in ("FakeTensor", "FunctionalTensor")


def _refuse_mixed(**tensors: Tensor) -> None:
    if len({tensor.dtype for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise InvalidArgument(f"these must be of one dtype, and are {found}; cast them")
