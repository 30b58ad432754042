"""Attention on a GPU agrees with its definition, in results and all gradients.

Run as ``test_kernels.py`` is.
"""

import pytest
import torch
from harness import compare
from kernels.attention_cases import FEATURE_MAPS, Attention, Case

from sae_lens_ext.kernels import (
    AttentionState,
    quadratic_attention,
    quadratic_attention_with_state,
)
from sae_lens_ext.kernels.quadratic_attention import operator


def assert_agrees(case, name, form, with_state, dtype, device):
    c = FEATURE_MAPS[name]
    inputs = {
        key: tensor.to(device) for key, tensor in case.inputs(c, with_state).items()
    }
    plain = Attention(c, "dense", "reference")
    fast = Attention(c, form, "gpu")
    compare(fast, plain, inputs, dtype)


# Sizes above and below those of tiles and chunks: more than one piece of every axis,
# the last one smaller.
@pytest.mark.parametrize(
    ("case", "form", "with_state"),
    [
        (Case(2, 1, 66, 3, 2), "chunked", True),
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
def test_agrees_with_the_definition(case, form, with_state, dtype, device):
    # Based has all kinds of features at once.
    assert_agrees(case, "based", form, with_state, dtype, device)


@pytest.mark.parametrize("name", [name for name in FEATURE_MAPS if name != "based"])
@pytest.mark.usefixtures("small")
def test_every_feature_map_agrees_with_its_definition(name, dtype, device):
    assert_agrees(Case(1, 1, 18, 4, 3), name, "chunked", True, dtype, device)


def test_tiles_of_their_real_size_agree_with_the_definition(device):
    case = Case(1, 1, 33, 17, 5)
    assert_agrees(case, "rebased", "chunked", True, torch.float32, device)


def test_wide_queries_and_keys_agree_with_the_definition(dtype, device):
    # These run in torch, because tiles of them do not fit into a GPU's shared memory.
    assert_agrees(Case(1, 2, 5, 65, 3), "based", "auto", True, dtype, device)


def test_auto_chooses_the_form_with_fewest_multiplications(device, monkeypatch):
    chunks = []

    def run(name, q, k, v, feature_map, state, wants_state, chunk):
        chunks.append(chunk)
        return v, None

    monkeypatch.setattr(operator, "run", run)
    for pos in (1024, 2048):
        for d in (16, 64):
            q = torch.ones(pos, d, device=device)
            quadratic_attention(q, q, torch.ones(pos, 64, device=device), backend="gpu")
    assert chunks == [0, 0, 256, 0]


def test_weights_that_cancel_in_a_state_count_as_zero(device):
    """Every score is exactly 0; the sum over features is not, as sqrt(2) is rounded."""
    q = torch.ones(9, 2, device=device)
    k, v = (
        torch.arange(1.0, 10.0, device=device).unsqueeze(1)
        * torch.tensor(row, device=device)
        for row in ([1.0, -1.0], [1.0])
    )
    state = quadratic_attention_with_state(q, k, v, backend="gpu").state
    leaves = [tensor.clone().requires_grad_() for tensor in (q, k, v, *state)]

    out = quadratic_attention(
        *leaves[:3], backend="gpu", state=AttentionState(*leaves[3:])
    )

    assert out.eq(0).all()
    for gradient in torch.autograd.grad(out.sum(), leaves):
        assert gradient.eq(0).all()


def test_half_precision_inputs_are_summed_in_float32(device):
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(20, 16, generator=g).bfloat16().to(device) for _ in range(2))

    state = quadratic_attention_with_state(
        q, k, torch.ones_like(q[:, :1]), backend="gpu"
    ).state

    # Products of features with ones, and the sum of the features without a product.
    torch.testing.assert_close(state.kv.squeeze(-1), state.k, rtol=1e-5, atol=1e-5)
