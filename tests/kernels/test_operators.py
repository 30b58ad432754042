"""What torch asks of an operator: one step for torch.compile, shapes without numbers, derivatives of derivatives."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import sae_lens_ext as sle
from sae_lens_ext.kernels import hierarchical_loss, sparse_decode, topk_encode

N, D, F, K = 7, 5, 11, 3


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (N, D), "W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,), "target": (N, D)}
    made = {name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for name, shape in shapes.items()}
    return made


def _loss_of(kernel, t, backend):
    values, indices = topk_encode(t["x"].detach(), t["W_enc"].detach(), t["b_enc"].detach(), K)
    values = values.detach().requires_grad_()
    if kernel == "topk_encode":
        return topk_encode(t["x"], t["W_enc"], t["b_enc"], K, backend=backend)[0].pow(3).sum(), ["x", "W_enc", "b_enc"]
    if kernel == "sparse_decode":
        return sparse_decode(values, indices, t["W_dec"], t["b_dec"], backend=backend).pow(3).sum(), ["W_dec", "b_dec"]
    loss = hierarchical_loss(values, indices, t["W_dec"], t["b_dec"], t["target"], backend=backend)
    return loss, ["W_dec", "b_dec", "target"]


@pytest.mark.parametrize("by_backward", [True, False])
@pytest.mark.parametrize("kernel", ["topk_encode", "sparse_decode", "hierarchical_loss"])
def test_a_penalty_on_gradients_is_that_of_the_definition(tensors, kernel, by_backward):
    found = {}
    for backend in ("reference", "cpu"):
        loss, names = _loss_of(kernel, tensors, backend)
        inputs = [tensors[name] for name in names]
        gradients = torch.autograd.grad(loss, inputs, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in gradients)
        assert penalty.requires_grad
        if by_backward:
            for tensor in inputs:
                tensor.grad = None
            penalty.backward()
            found[backend] = [tensor.grad.clone() for tensor in inputs]
        else:
            found[backend] = torch.autograd.grad(penalty, inputs)
    for name, ours, theirs in zip(names, found["cpu"], found["reference"], strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")


def test_a_gradient_penalty_on_a_reconstruction_is_that_of_dense_algebra():
    sae = sle.SAE(sle.SAEConfig(d_model=D, d_sae=F, k=K), dtype=torch.float64)
    x = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    sae(x).square().sum().backward()  # the first derivative still is the fast one
    chosen = sae.encode(x).indices

    def dense(x):
        pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
        return (pre * torch.zeros_like(pre).scatter(1, chosen, 1.0)) @ sae.W_dec + sae.b_dec

    penalties = []
    for function in (sae, dense):
        (gradient,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), x)[0])
    torch.testing.assert_close(*penalties)


@pytest.mark.parametrize("name", ["topk_encode", "sparse_decode"])
def test_torch_s_own_checks_of_an_operator_pass(tensors, name):
    operator = getattr(torch.ops.sae_lens_ext, name).default
    if name == "topk_encode":
        arguments = (tensors["x"], tensors["W_enc"], tensors["b_enc"], K)
    else:
        values, indices = topk_encode(tensors["x"].detach(), tensors["W_enc"].detach(), tensors["b_enc"].detach(), K)
        arguments = (values.requires_grad_(), indices, tensors["W_dec"], tensors["b_dec"])
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


def test_shapes_without_numbers_are_enough():
    sae = sle.SAE(sle.SAEConfig(d_model=D, d_sae=F, k=K))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(torch.randn(2, N, D))
        assert sae(x).shape == (2, N, D)
        assert sae.encode(x, 2).values.shape == (2, N, 2)


def test_a_compiled_sae_computes_the_same():
    # In a process without run-time shape checks, which the compiler cannot see through.
    code = """
import torch, sae_lens_ext as sle
sae, x = sle.SAE(sle.SAEConfig(d_model=5, d_sae=11, k=3)), torch.randn(7, 5)
compiled = torch.compile(lambda x: sae(x, 2) + 1, backend="aot_eager", fullgraph=True)
torch.testing.assert_close(compiled(x), sae(x, 2) + 1)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
