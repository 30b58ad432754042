"""Fake results of the operators have the shapes, strides and dtypes of the real ones.

``torch.compile`` lays out its buffers by them, and opcheck compares them only for the
inputs that it is shown.
"""

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from kernels.cases import Case, cast
from sae_lens_ext.kernels import (
    hierarchical_loss,
    quadratic_attention,
    sparse_decode,
    topk_encode,
)

# No two sizes are equal.
CASE = Case(4, 7, 19, 3)
LEVELS = [1, 3]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
BASED = [1.0, 1.0, 0.5]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def choices(n):
    """Every way to need some of n gradients."""
    return [list(needs) for needs in itertools.product([False, True], repeat=n)]


def real_and_fake(name, *arguments):
    """The results of an operator on real tensors, and on fake ones."""
    operator = getattr(torch.ops.sae_lens_ext, name)
    real = operator(*arguments)

    # A shape environment, for a width that depends on the data.
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        fakes = [
            mode.from_tensor(argument, static_shapes=True)
            if isinstance(argument, torch.Tensor)
            else argument
            for argument in arguments
        ]
        fake = operator(*fakes)

    if isinstance(real, torch.Tensor):
        return [real], [fake]
    return real, fake


def assert_fake_results_fit(name, *arguments):
    real, fake = real_and_fake(name, *arguments)
    assert len(fake) == len(real)
    for result, fake_result in zip(real, fake, strict=True):
        assert list(fake_result.shape) == list(result.shape)
        assert list(fake_result.stride()) == list(result.stride())
        assert fake_result.dtype == result.dtype
        assert fake_result.device == result.device


@pytest.fixture(autouse=True)
def _registered():
    """Operators are registered once their modules are loaded, which a call does."""
    code = CASE.code()
    topk_encode(**CASE.encoder(), k=1, backend="cpu")
    hierarchical_loss(**code, backend="cpu")
    del code["target"]
    sparse_decode(**code, backend="cpu")
    q = torch.ones(1, 3, 2)
    quadratic_attention(q, q, q, backend="cpu")


@every_dtype
@pytest.mark.parametrize("has_centre", [False, True])
@pytest.mark.parametrize("has_threshold", [False, True])
@pytest.mark.parametrize("k", [1, 5, 19])
def test_topk_encode(dtype, has_centre, has_threshold, k):
    encoder = cast(CASE.encoder(), dtype)
    assert_fake_results_fit(
        "topk_encode_cpu",
        encoder["x"],
        encoder["W_enc"],
        encoder["b_enc"],
        encoder["centre"] if has_centre else None,
        encoder["b_enc"] if has_threshold else None,
        k,
    )


@every_dtype
def test_topk_encode_without_k(dtype):
    encoder = cast(CASE.encoder(), dtype)
    arguments = (encoder["x"], encoder["W_enc"], encoder["b_enc"], None, None, None)
    real, fake = real_and_fake("topk_encode_cpu", *arguments)

    for result, fake_result in zip(real, fake, strict=True):
        assert fake_result.dtype == result.dtype
        assert fake_result.shape[0] == result.shape[0] == CASE.n
        # Only the numbers tell.
        assert isinstance(fake_result.shape[1], torch.SymInt)


@every_dtype
@pytest.mark.parametrize("is_by_feature", [False, True])
@pytest.mark.parametrize("needs", choices(4), ids=str)
def test_gradients_of_topk_encode(dtype, is_by_feature, needs):
    encoder = cast(CASE.encoder(), dtype)
    W_enc = encoder["W_enc"]
    if is_by_feature:
        W_enc = W_enc.T.contiguous().T
    values, indices = topk_encode(**encoder, k=CASE.k)
    assert_fake_results_fit(
        "topk_encode_cpu_gradients",
        torch.ones_like(values),
        encoder["x"],
        W_enc,
        encoder["centre"],
        values,
        indices,
        *needs,
    )


@every_dtype
def test_sparse_decode(dtype):
    code = cast(CASE.code(), dtype)
    arguments = (code["values"], code["indices"], code["W_dec"], code["b_dec"])
    assert_fake_results_fit("sparse_decode_cpu", *arguments)


@every_dtype
@pytest.mark.parametrize("needs", choices(2), ids=str)
def test_gradients_of_sparse_decode(dtype, needs):
    code = cast(CASE.code(), dtype)
    arguments = (code["target"], code["values"], code["indices"], code["W_dec"])
    assert_fake_results_fit("sparse_decode_cpu_gradients", *arguments, *needs)


@every_dtype
@pytest.mark.parametrize("details", [False, True])
@pytest.mark.parametrize("needs", choices(4), ids=str)
def test_hierarchical_loss(dtype, needs, details):
    code = cast(CASE.code(), dtype)
    assert_fake_results_fit(
        "hierarchical_loss_cpu",
        code["values"],
        code["indices"],
        code["W_dec"],
        code["b_dec"],
        code["target"],
        LEVELS,
        [0.5, 0.5],
        needs,
        details,
        False,
    )


@every_dtype
@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("wants_state", [False, True])
def test_quadratic_attention(dtype, has_state, wants_state):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 5, d, generator=g).to(dtype) for d in (3, 3, 4))
    operator = torch.ops.sae_lens_ext.quadratic_attention_cpu
    numbers = (BASED, 0.5, 1e-12, 32)

    state = operator(q, k, v, None, *numbers, True)[2]
    inputs = (q, k, v, state if has_state else None, *numbers)
    assert_fake_results_fit("quadratic_attention_cpu", *inputs, wants_state)

    out, divisor, final_state = operator(*inputs, wants_state)
    assert_fake_results_fit(
        "quadratic_attention_cpu_gradients",
        torch.ones_like(out),
        final_state if wants_state else None,
        out,
        divisor,
        *inputs,
    )
