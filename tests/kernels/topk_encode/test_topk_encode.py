"""``topk_encode`` returns the k strongest features, strongest first, after ReLU."""

import pytest
import torch
from kernels.cases import CASES

from sae_lens_ext.errors import InvalidK
from sae_lens_ext.kernels import topk_encode

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


@both_backends
def test_ties_keep_values_sorted_and_features_distinct(backend):
    values, indices = topk_encode(
        torch.ones(3, 2), torch.ones(2, 9), torch.zeros(9), k=5, backend=backend
    )
    assert values.tolist() == [[2.0] * 5] * 3
    assert all(len(set(row)) == 5 for row in indices.tolist())


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
