"""``topk_encode`` returns the k strongest features, strongest first, after ReLU."""

import pytest
import torch
from kernels.cases import CASES

from sae_lens_ext.errors import InvalidK
from sae_lens_ext.kernels import topk_encode
from sae_lens_ext.kernels.topk_encode import cpu

both_backends = pytest.mark.parametrize("backend", ["cpu", "reference"])


@both_backends
@pytest.mark.parametrize("case", CASES, ids=str)
def test_indices_belong_to_the_values_and_values_fall(case, backend):
    inputs = case.encoder()
    values, indices = topk_encode(**inputs, k=case.k, backend=backend)

    centred = inputs["x"] - inputs["centre"]
    pre_activations = centred @ inputs["W_enc"] + inputs["b_enc"]
    torch.testing.assert_close(pre_activations.gather(1, indices).relu(), values)
    assert (values.diff(dim=1) <= 0).all()
    assert (values >= 0).all()
    assert all(len(set(row)) == case.k for row in indices.tolist())


@both_backends
def test_a_smaller_k_is_a_prefix_of_a_larger_one(backend):
    inputs = CASES[3].encoder()
    large_values, large_indices = topk_encode(**inputs, k=33, backend=backend)
    for k in (1, 2, 16):
        values, indices = topk_encode(**inputs, k=k, backend=backend)
        assert torch.equal(values, large_values[:, :k])
        assert torch.equal(indices, large_indices[:, :k])


def planted_ties(dtype, d_sae):
    """An encoder of whole numbers, most of them equal to others, in the last rows all.

    Products are exact, so that ties do not depend on how a library sums.
    """
    g = torch.Generator().manual_seed(d_sae)
    x = torch.randint(-1, 2, (70, 3), generator=g).to(dtype)
    x[-2:] = 0
    W_enc = torch.randint(-1, 2, (3, d_sae), generator=g).to(dtype)
    return x, W_enc, torch.zeros(d_sae, dtype=dtype)


# Rows for both ways to select, and for one or more threads.
@both_backends
@pytest.mark.parametrize("d_sae", [29, 1500, 4096])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
def test_equal_values_come_by_feature_at_every_k(dtype, d_sae, backend, monkeypatch):
    # So that tokens are encoded in more than one chunk.
    monkeypatch.setattr(cpu, "_CHUNK_ELEMENTS", 1)
    x, W_enc, b_enc = planted_ties(dtype, d_sae)
    expected = (x @ W_enc).sort(dim=1, descending=True, stable=True)

    for k in (1, 2, 5, 28, d_sae):
        values, indices = topk_encode(x, W_enc, b_enc, k, backend)
        assert torch.equal(values, expected.values[:, :k].relu())
        assert torch.equal(indices, expected.indices[:, :k])


def test_the_planted_ties_show_an_order_that_is_not_stable():
    x, W_enc, _ = planted_ties(torch.float32, 1500)
    pre_activations = x @ W_enc
    expected = pre_activations.sort(dim=1, descending=True, stable=True)
    for k in (5, 28):
        unstable = pre_activations.topk(k)
        assert torch.equal(unstable.values, expected.values[:, :k])
        assert not torch.equal(unstable.indices, expected.indices[:, :k])


@both_backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("d_sae", [700, 2048])
def test_a_prefix_in_half_precision_is_the_code_at_that_k(dtype, d_sae, backend):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 16, generator=g).to(dtype)
    W_enc = torch.randn(16, d_sae, generator=g).to(dtype)
    b_enc = torch.zeros(d_sae, dtype=dtype)

    values, indices = topk_encode(x, W_enc, b_enc, 64, backend)
    has_ties = (values.diff(dim=1) == 0).any(dim=1)
    assert has_ties.float().mean() > 0.5
    for k in range(1, 64):
        fewer_values, fewer_indices = topk_encode(x, W_enc, b_enc, k, backend)
        assert torch.equal(fewer_values, values[:, :k])
        assert torch.equal(fewer_indices, indices[:, :k])


@both_backends
def test_a_value_that_relu_set_to_zero_passes_no_gradient(backend):
    W_enc = torch.tensor([[1.0, -1.0, -2.0]], requires_grad=True)
    values, _ = topk_encode(
        torch.ones(1, 1), W_enc, torch.zeros(3), k=3, backend=backend
    )
    values.sum().backward()
    assert values.tolist() == [[1.0, 0.0, 0.0]]
    assert W_enc.grad.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("k", [0, -1, 30, 2.0, True, "3"])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_k(k):
    with pytest.raises(InvalidK, match=r"k must be .*from 1 to d_sae=29; got"):
        topk_encode(**CASES[2].encoder(), k=k)
