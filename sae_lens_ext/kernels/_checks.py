"""Shape checks that the kernels share; each message names the tensors by the names the caller used."""

import operator

import torch
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, InvalidK, ShapeMismatch

_INTEGERS = ("torch.int64", "torch.int32", "torch.int16", "torch.uint8", "torch.int8")


def whole_number(k: object) -> int | None:
    """``k`` as an int if it is a whole number of any kind, numpy's and tensors' included; None if it is a bool, a float or no number.

    >>> import numpy
    >>> whole_number(8), whole_number(numpy.int64(8)), whole_number(8.0), whole_number(True)
    (8, 8, None, None)
    """
    if isinstance(k, bool) or (isinstance(k, Tensor) and k.dtype == torch.bool):
        return None
    try:
        return operator.index(k)  # pyright: ignore[reportArgumentType] - raising TypeError is how it says no
    except TypeError:
        return None


def check_k(k: object, d_sae: int, name: str = "d_sae") -> int:
    """``k`` as an int; refuse what is not a whole number from 1 to ``d_sae``."""
    number = whole_number(k)
    if number is None:
        raise InvalidK(f"k must be a whole number from 1 to {name}={d_sae}; got {k!r} ({type(k).__name__})")
    if not 1 <= number <= d_sae:
        raise InvalidK(f"k must be from 1 to {name}={d_sae}; got {number}")
    return number


def check_encoder(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> None:
    """Refuse encoder tensors that do not fit: ``x [..., d_model]``, ``W_enc [d_model, d_sae]``, ``b_enc [d_sae]``."""
    if W_enc.ndim != 2:
        raise ShapeMismatch(f"W_enc must be [d_model, d_sae]; got {list(W_enc.shape)}")
    if x.ndim < 1 or x.shape[-1] != W_enc.shape[0]:
        raise ShapeMismatch(f"the last axis of x must be d_model={W_enc.shape[0]}, as in W_enc {list(W_enc.shape)}; got x {list(x.shape)}")
    if x.dtype != W_enc.dtype:
        raise InvalidArgument(f"x is {x.dtype} and W_enc is {W_enc.dtype}; cast one of them")
    if b_enc.shape != W_enc.shape[1:]:
        raise ShapeMismatch(f"b_enc must be [d_sae={W_enc.shape[1]}], as in W_enc {list(W_enc.shape)}; got {list(b_enc.shape)}")


def check_decoder(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor) -> None:
    """Refuse decoder tensors that do not fit: ``values`` and ``indices [..., k]``, ``W_dec [d_sae, d_model]``, ``b_dec [d_model]``."""
    if W_dec.ndim != 2:
        raise ShapeMismatch(f"W_dec must be [d_sae, d_model]; got {list(W_dec.shape)}")
    if values.ndim < 1 or values.shape != indices.shape:
        raise ShapeMismatch(f"values and indices must have one shape [..., k]; got {list(values.shape)} and {list(indices.shape)}")
    if str(indices.dtype) not in _INTEGERS:
        raise InvalidArgument(f"indices must hold whole numbers; got {indices.dtype}")
    if values.dtype != W_dec.dtype:
        raise InvalidArgument(f"values are {values.dtype} and W_dec is {W_dec.dtype}; cast one of them")
    if values.ndim and values.shape[-1] == 0:
        raise InvalidK("a code needs at least one feature per token; got values of width 0")
    if indices.numel():
        # The fast versions read and write rows by these numbers without looking.
        smallest, largest = (int(bound) for bound in indices.aminmax())
        if smallest < 0 or largest >= W_dec.shape[0]:
            raise InvalidArgument(
                f"indices must be features from 0 to {W_dec.shape[0] - 1}, by W_dec; they run from {smallest} to {largest}"
            )
    if b_dec.shape != W_dec.shape[1:]:
        raise ShapeMismatch(f"b_dec must be [d_model={W_dec.shape[1]}], as in W_dec {list(W_dec.shape)}; got {list(b_dec.shape)}")
