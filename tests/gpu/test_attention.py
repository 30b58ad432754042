"""The Triton versions of ``quadratic_attention`` against its definition. Run as ``test_kernels.py`` is."""

import pytest
import torch
from harness import compare
from kernels.attention_cases import FEATURE_MAPS, Attention, Case

from sae_lens_ext.kernels import (
    AttentionState,
    quadratic_attention,
    quadratic_attention_with_state,
)
from sae_lens_ext.kernels.quadratic_attention import gpu, gpu_layout, operator


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(gpu, "_CHUNK", 32)
    monkeypatch.setattr(gpu_layout, "tiles", lambda d, d_v: gpu_layout.Tiles(16, 16, 16))


def run(case, kernel, form, with_state, dtype, device):
    inputs = {
        name: tensor.to(device)
        for name, tensor in case.inputs(FEATURE_MAPS[kernel], with_state).items()
    }
    plain, fast = (
        Attention(FEATURE_MAPS[kernel], form, backend)
        for form, backend in (("dense", "reference"), (form, "gpu"))
    )
    compare(fast, plain, inputs, dtype)


# Sizes above and below those of tiles and chunks: several pieces of every axis, the last one smaller.
@pytest.mark.parametrize(
    ("case", "form", "with_state"),
    [
        (Case(2, 1, 70, 4, 2), "chunked", True),
        (Case(1, 1, 33, 5, 18), "chunked", False),
        (Case(1, 2, 18, 5, 2), "dense", False),
        (Case(1, 1, 20, 6, 3, blind=True), "dense", True),
        (Case(1, 1, 18, 6, 3, blind=True), "chunked", False),
        (Case(1, 1, 2, 2, 1), "chunked", True),
        (Case(1, 2, 1, 1, 1), "dense", False),
    ],
    ids=str,
)
@pytest.mark.usefixtures("small")
def test_it_agrees_with_the_definition(case, form, with_state, dtype, device):
    # All kinds of features at once.
    run(case, "based", form, with_state, dtype, device)


@pytest.mark.parametrize("kernel", [kernel for kernel in FEATURE_MAPS if kernel != "based"])
@pytest.mark.usefixtures("small")
def test_every_kernel_agrees_with_its_definition(kernel, dtype, device):
    run(Case(1, 1, 18, 4, 3), kernel, "chunked", True, dtype, device)


def test_tiles_of_their_real_size(device):
    run(Case(1, 1, 33, 17, 5), "rebased", "chunked", True, torch.float32, device)


def test_wide_queries_and_keys_run_too(dtype, device):
    # By torch: no GPU has the shared memory for tiles of them.
    run(Case(1, 2, 5, 65, 3), "based", "auto", True, dtype, device)


def test_which_form_multiplies_less_is_counted(device, monkeypatch):
    chunks = []
    monkeypatch.setattr(
        operator,
        "run",
        lambda *arguments: (chunks.append(arguments[-1]), (arguments[3], None))[1],
    )
    for pos in (1024, 2048):
        for d in (16, 64):
            q = torch.ones(pos, d, device=device)
            quadratic_attention(q, q, torch.ones(pos, 64, device=device), backend="gpu")
    assert chunks == [0, 0, 256, 0]


def test_what_cancels_in_a_state_weighs_nothing(device):
    """Every score is exactly 0, and the sum over features is not: the square root of 2 is rounded."""
    q = torch.ones(9, 2, device=device)
    k, v = (
        torch.arange(1.0, 10.0, device=device).unsqueeze(1)
        * torch.tensor(of, device=device)
        for of in ([1.0, -1.0], [1.0])
    )
    state = quadratic_attention_with_state(q, k, v, backend="gpu").state
    leaves = [one.clone().requires_grad_() for one in (q, k, v, *state)]
    out = quadratic_attention(
        *leaves[:3], backend="gpu", state=AttentionState(*leaves[3:])
    )
    assert out.eq(0).all()
    for gradient in torch.autograd.grad(out.sum(), leaves):
        assert gradient.eq(0).all()


def test_half_precision_is_summed_as_float32_is(device):
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(20, 16, generator=g).bfloat16().to(device) for _ in range(2))
    state = quadratic_attention_with_state(
        q, k, torch.ones_like(q[:, :1]), backend="gpu"
    ).state
    # Products of features with ones, and the sum of the features without a product.
    torch.testing.assert_close(state.kv.squeeze(-1), state.k, rtol=1e-5, atol=1e-5)
