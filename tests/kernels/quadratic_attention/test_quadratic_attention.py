"""The public functions say what is wrong with their arguments."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from kernels.attention_cases import BASED

from sae_lens_ext.errors import BackendError, InvalidArgument, ShapeMismatch
from sae_lens_ext.kernels import (
    AttentionState,
    quadratic_attention,
    quadratic_attention_step,
)
from sae_lens_ext.kernels.quadratic_attention import feature_map

pytestmark = pytest.mark.usefixtures("without_shape_checks")

INVALID_COEFFICIENTS = [
    (1.0, -1.0, 1.0),
    (0.0, 0.0, 0.0),
    (1.0, 1.0),
    (1.0, 1.0, float("nan")),
    "001",
    (torch.ones(()), 0.0, 0.0),
]


@pytest.fixture
def q():
    return torch.ones(5, 3)


@pytest.fixture
def v():
    return torch.ones(5, 2)


def test_rejects_tensors_that_do_not_fit_together(q, v):
    with pytest.raises(
        ShapeMismatch,
        match=r"q and k must have one shape \[..., pos, d\], d not 0; "
        r"got \[5, 3\] and \[4, 3\]",
    ):
        quadratic_attention(q, q[:4], v)
    with pytest.raises(ShapeMismatch, match=r"d not 0; got \[5, 0\] and \[5, 0\]"):
        quadratic_attention(q[:, :0], q[:, :0], v)
    with pytest.raises(
        ShapeMismatch, match=r"v must be .* of k \[5, 3\]; got \[4, 2\]"
    ):
        quadratic_attention(q, q, v[:4])
    with pytest.raises(
        InvalidArgument,
        match="of at least 16 bits; got q torch.float32, k torch.float64",
    ):
        quadratic_attention(q, q.double(), v)
    small = [tensor.to(torch.float8_e4m3fn) for tensor in (q, q, v)]
    with pytest.raises(
        InvalidArgument,
        match="at least 16 bits; got q torch.float8_e4m3fn, .*; cast them",
    ):
        quadratic_attention(*small)
    with pytest.raises(
        InvalidArgument, match="v must be a torch tensor; got an object of type list"
    ):
        quadratic_attention(q, q, [[1.0]])


def test_rejects_a_single_token_that_does_not_fit_in_terms_of_its_own_axes(q, v):
    with pytest.raises(
        ShapeMismatch,
        match=r"q and k must have one shape \[..., d\], d not 0; "
        r"got \[5, 3\] and \[4, 3\]",
    ):
        quadratic_attention_step(q, q[:4], v, None)
    with pytest.raises(
        ShapeMismatch,
        match=r"v must be \[..., d_v\] with the leading axes of k \[5, 3\]; "
        r"got \[4, 2\]",
    ):
        quadratic_attention_step(q, q, v[:4], None)
    with pytest.raises(
        InvalidArgument, match="q must be a torch tensor; got an object of type float"
    ):
        quadratic_attention_step(1.0, q, v, None)


def test_rejects_invalid_state(q, v):
    state = AttentionState(torch.zeros(6, 2), torch.zeros(6))
    remedy = "; take it from the .state of quadratic_attention_with_state"
    with pytest.raises(
        ShapeMismatch,
        match=r"the state must be kv \[10, 2\] and k \[10\] for these values, and "
        r"coefficients; got \[6, 2\].*" + remedy,
    ):
        quadratic_attention(q, q, v, BASED, state=state)
    with pytest.raises(
        InvalidArgument,
        match="the state must be torch.float64, in which sums are made; "
        "got torch.float32.*" + remedy,
    ):
        quadratic_attention(q.double(), q.double(), v.double(), state=state)
    for invalid, received in (
        (tuple(state), "an object of type tuple"),
        (AttentionState(state.kv, 1), "Tensor, int"),
        (state.kv, "an object of type Tensor"),
    ):
        with pytest.raises(
            InvalidArgument,
            match="state must be an AttentionState of two tensors; "
            f"got {received}{remedy}",
        ):
            quadratic_attention(q, q, v, state=invalid)


def test_rejects_invalid_coefficients(q, v):
    for c in INVALID_COEFFICIENTS:
        with pytest.raises(
            InvalidArgument,
            match="c must be three non-negative numbers c0, c1, c2, at least one of "
            "them not 0; got",
        ):
            quadratic_attention(q, q, v, c)
        with pytest.raises(InvalidArgument, match="c must be three non-negative"):
            feature_map(q, c, 1.0)


def test_rejects_invalid_scale(q, v):
    for scale in (-1.0, 0.0, math.inf, math.nan, "1", 1j, torch.ones(())):
        with pytest.raises(
            InvalidArgument, match="scale must be a positive number; got"
        ):
            quadratic_attention(q, q, v, scale=scale)
        with pytest.raises(
            InvalidArgument, match="scale must be a positive number; got"
        ):
            feature_map(q, BASED, scale)


def test_rejects_invalid_eps(q, v):
    """Below the smallest normal number of the dtype of sums, eps would vanish."""
    for eps in (0.0, -1e-12, None, "1", 1e-39, torch.ones(())):
        with pytest.raises(
            InvalidArgument, match="eps must be a number of at least 1.17549e-38; got"
        ):
            quadratic_attention(q, q, v, eps=eps)
    with pytest.raises(
        InvalidArgument, match="eps must be a number of at least 2.22507e-308; got 0"
    ):
        quadratic_attention(q.double(), q.double(), v.double(), eps=0)


def test_accepts_numbers_of_any_type(q, v):
    out = quadratic_attention(
        q,
        q,
        v,
        [np.float32(1), 1, Fraction(1, 2)],
        scale=np.float32(0.5),
        eps=np.float64(1e-12),
    )
    assert torch.equal(out, quadratic_attention(q, q, v, BASED, scale=0.5))


def test_rejects_unknown_form_and_unavailable_backend(q, v):
    with pytest.raises(
        InvalidArgument,
        match="form must be one of auto, dense, chunked, recurrent; got 'fast'",
    ):
        quadratic_attention(q, q, v, form="fast")
    with pytest.raises(
        BackendError, match="backend='gpu' was asked for, but the tensors are on cpu"
    ):
        quadratic_attention(q, q, v, backend="gpu")
    for form in ("dense", "recurrent"):
        with pytest.raises(
            BackendError,
            match=f"backend='cpu' was asked for, but form='{form}' is plain torch; "
            "leave backend out or pass backend='reference'",
        ):
            quadratic_attention(q, q, v, form=form, backend="cpu")
        quadratic_attention(q, q, v, form=form, backend="reference")
