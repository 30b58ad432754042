import pytest
import torch
from harness import compare

from kernels.cases import CASES
from sae_lens_ext.errors import BackendError, InvalidArgument, InvalidK, ShapeMismatch
from sae_lens_ext.kernels import topk_encode
from sae_lens_ext.kernels.topk_encode import cpu, reference


def _values_of(module, k):
    return lambda x, W_enc, b_enc, centre: module.topk_encode(
        x, W_enc, b_enc, k, centre
    )[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cpu_agrees_with_the_definition_in_outputs_and_all_gradients(case, dtype):
    compare(
        _values_of(cpu, case.k), _values_of(reference, case.k), case.encoder(), dtype
    )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_indices_point_at_the_values_and_values_fall(case, backend):
    inputs = case.encoder()
    values, indices = topk_encode(**inputs, k=case.k, backend=backend)
    pre_activations = (inputs["x"] - inputs["centre"]) @ inputs["W_enc"] + inputs[
        "b_enc"
    ]
    torch.testing.assert_close(pre_activations.gather(1, indices).relu(), values)
    assert (values.diff(dim=1) <= 0).all()
    assert (values >= 0).all()
    assert all(len(set(row)) == case.k for row in indices.tolist())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_smaller_k_is_a_prefix_of_a_larger_one(backend):
    inputs = CASES[3].encoder()
    large_values, large_indices = topk_encode(**inputs, k=33, backend=backend)
    for k in (1, 2, 16):
        values, indices = topk_encode(**inputs, k=k, backend=backend)
        assert torch.equal(values, large_values[:, :k])
        assert torch.equal(indices, large_indices[:, :k])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_ties_keep_values_sorted_and_features_distinct(backend):
    values, indices = topk_encode(
        torch.ones(3, 2), torch.ones(2, 9), torch.zeros(9), k=5, backend=backend
    )
    assert values.tolist() == [[2.0] * 5] * 3
    assert all(len(set(row)) == 5 for row in indices.tolist())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_value_that_relu_set_to_zero_passes_no_gradient(backend):
    W_enc = torch.tensor([[1.0, -1.0, -2.0]], requires_grad=True)
    values, _ = topk_encode(
        torch.ones(1, 1), W_enc, torch.zeros(3), k=3, backend=backend
    )
    values.sum().backward()
    assert values.tolist() == [[1.0, 0.0, 0.0]]
    assert W_enc.grad.tolist() == [[1.0, 0.0, 0.0]]


def test_a_feature_by_feature_encoder_gets_a_gradient_laid_out_like_it():
    W_enc = torch.randn(29, 13).T.requires_grad_()
    values, _ = topk_encode(torch.randn(4, 13), W_enc, torch.zeros(29), k=3)
    values.sum().backward()
    assert W_enc.grad.stride() == W_enc.stride()


def test_any_leading_shape():
    inputs = CASES[3].encoder()
    flat_values, flat_indices = topk_encode(**inputs, k=4)
    x = inputs.pop("x")
    values, indices = topk_encode(x.view(2, 5, 13, 70), **inputs, k=4)
    assert torch.equal(values.flatten(0, 2), flat_values)
    assert torch.equal(indices.flatten(0, 2), flat_indices)
    single_values, _ = topk_encode(x[0], **inputs, k=4)
    torch.testing.assert_close(single_values, flat_values[0])


@pytest.mark.parametrize("k", [0, -1, 30, 2.0, True, "3"])
@pytest.mark.usefixtures("without_shape_checks")
def test_a_k_that_is_none_is_refused(k):
    with pytest.raises(InvalidK, match=r"k must be .*from 1 to d_sae=29; got"):
        topk_encode(**CASES[2].encoder(), k=k)


@pytest.mark.usefixtures("without_shape_checks")
def test_tensors_that_do_not_fit_are_named():
    inputs = CASES[2].encoder()
    with pytest.raises(
        ShapeMismatch,
        match=r"last axis of x must be d_model=13, as in W_enc \[13, 29\]; got x \[17, 12\]",
    ):
        topk_encode(inputs["x"][:, :12], inputs["W_enc"], inputs["b_enc"], 3)
    with pytest.raises(ShapeMismatch, match=r"b_enc must be \[d_sae=29\]"):
        topk_encode(inputs["x"], inputs["W_enc"], inputs["b_enc"][:5], 3)
    with pytest.raises(ShapeMismatch, match=r"centre must be \[d_model=13\]"):
        topk_encode(
            inputs["x"], inputs["W_enc"], inputs["b_enc"], 3, centre=inputs["b_enc"]
        )


@pytest.mark.usefixtures("without_shape_checks")
def test_a_backend_is_used_or_refused():
    inputs = CASES[2].encoder()
    with pytest.raises(
        BackendError,
        match="backend='gpu' was asked for, but the tensors are on cpu; leave backend out",
    ):
        topk_encode(**inputs, k=3, backend="gpu")
    with pytest.raises(
        InvalidArgument,
        match="backend must be None or one of reference, cpu, gpu; got 'cuda'",
    ):
        topk_encode(**inputs, k=3, backend="cuda")
    meta = {name: tensor.to("meta") for name, tensor in inputs.items()}
    with pytest.raises(
        BackendError, match="backend='cpu' was asked for, but the tensors are on meta"
    ):
        topk_encode(**meta, k=3, backend="cpu")


@pytest.mark.usefixtures("without_shape_checks")
def test_what_is_no_float_tensor_on_the_same_device_is_refused():
    inputs = CASES[2].encoder()
    with pytest.raises(
        InvalidArgument, match="x must be a torch tensor; got a ndarray"
    ):
        topk_encode(**{**inputs, "x": inputs["x"].numpy()}, k=3)
    with pytest.raises(
        InvalidArgument,
        match="must be of one floating dtype, and are x torch.int64, W_enc torch.int64",
    ):
        topk_encode(**{name: tensor.long() for name, tensor in inputs.items()}, k=3)
    with pytest.raises(
        InvalidArgument,
        match="all tensors must be on one device; W_enc is on meta, others on cpu: move it",
    ):
        topk_encode(**{**inputs, "W_enc": inputs["W_enc"].to("meta")}, k=3)
    with pytest.raises(
        ShapeMismatch,
        match=r"W_enc must be \[d_model, d_sae\], neither of them 0; got \[0, 4\]",
    ):
        topk_encode(torch.ones(2, 0), torch.ones(0, 4), torch.ones(4), 3)
