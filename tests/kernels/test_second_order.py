"""Second derivatives of the kernels are those of their definitions."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.kernels import (
    hierarchical_loss,
    quadratic_attention_with_state,
    sparse_decode,
    topk_encode,
)

N = 7
D_MODEL = 5
D_SAE = 11
K = 3


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "x": (N, D_MODEL),
        "W_enc": (D_MODEL, D_SAE),
        "b_enc": (D_SAE,),
        "W_dec": (D_SAE, D_MODEL),
        "b_dec": (D_MODEL,),
        "target": (N, D_MODEL),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def encoded(t, backend):
    values, _ = topk_encode(
        t["x"], t["W_enc"], t["b_enc"], K, backend, centre=t["b_dec"]
    )
    return values.pow(3).sum()


def code_of(t):
    """A code that carries no gradient to the encoder."""
    encoder = (t[name].detach() for name in ("x", "W_enc", "b_enc"))
    values, indices = topk_encode(*encoder, K)
    return values.detach().requires_grad_(), indices


def decoded(t, backend):
    out = sparse_decode(*code_of(t), t["W_dec"], t["b_dec"], backend=backend)
    return out.pow(3).sum()


def loss(t, backend):
    return hierarchical_loss(
        *code_of(t), t["W_dec"], t["b_dec"], t["target"], backend=backend
    )


@pytest.mark.parametrize("by_backward", [True, False])
@pytest.mark.parametrize(
    ("function", "names"),
    [
        pytest.param(encoded, ["x", "W_enc", "b_enc", "b_dec"], id="topk_encode"),
        pytest.param(decoded, ["W_dec", "b_dec"], id="sparse_decode"),
        pytest.param(loss, ["W_dec", "b_dec", "target"], id="hierarchical_loss"),
    ],
)
def test_a_penalty_on_gradients_is_that_of_the_definition(
    tensors, function, names, by_backward
):
    penalty_gradients = {}
    for backend in ("reference", "cpu"):
        leaves = {
            name: tensor.clone().requires_grad_() for name, tensor in tensors.items()
        }
        inputs = [leaves[name] for name in names]
        gradients = torch.autograd.grad(
            function(leaves, backend), inputs, create_graph=True
        )
        penalty = sum(gradient.square().sum() for gradient in gradients)
        assert penalty.requires_grad

        if by_backward:
            penalty.backward()
            penalty_gradients[backend] = [tensor.grad for tensor in inputs]
        else:
            penalty_gradients[backend] = torch.autograd.grad(penalty, inputs)

    pairs = zip(
        names, penalty_gradients["cpu"], penalty_gradients["reference"], strict=True
    )
    for name, fast, plain in pairs:
        assert plain.abs().sum() > 0
        torch.testing.assert_close(
            fast, plain, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_gradient_penalty_on_a_reconstruction_is_that_of_dense_algebra():
    sae = sle.SAE(sle.SAEConfig(d_model=D_MODEL, d_sae=D_SAE, k=K), dtype=torch.float64)
    x = torch.randn(N, D_MODEL, dtype=torch.float64, requires_grad=True)
    # The first derivative still is the fast one.
    sae(x).square().sum().backward()
    indices = sae.encode(x).indices

    def dense(x):
        pre_activations = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        mask = torch.zeros_like(pre_activations).scatter(1, indices, 1.0)
        return (pre_activations.relu() * mask) @ sae.W_dec + sae.b_dec

    penalties = []
    for function in (sae, dense):
        total = function(x).square().sum()
        (gradient,) = torch.autograd.grad(total, x, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), x)[0])
    torch.testing.assert_close(*penalties)


def tied(x, W, b, backend):
    """A loss in which the code depends on the decoder too."""
    b_enc = torch.zeros(D_SAE, dtype=x.dtype)
    values, indices = topk_encode(x, W.T, b_enc, K, backend, centre=b)
    decoded = sparse_decode(values, indices, W, b, backend=backend)
    # The target is an activation that the code is made of.
    loss = hierarchical_loss(values, indices, W, b, x, backend=backend)
    return loss + decoded.square().sum()


def attended(x, W, b, backend):
    """Attention whose upstream gradients depend on its inputs."""
    q = (x @ W.T).unsqueeze(0)
    result = quadratic_attention_with_state(
        q, q.sin(), q + b.sum(), (1.0, 1.0, 0.5), backend=backend
    )
    return result.out.square().sum() + result.state.kv.square().sum()


@pytest.mark.parametrize("function", [tied, attended])
def test_a_graph_of_the_gradients_does_not_change_them(tensors, function):
    inputs = [tensors[name].requires_grad_() for name in ("x", "W_dec", "b_dec")]
    gradients = torch.autograd.grad(function(*inputs, "cpu"), inputs)
    with_graph = torch.autograd.grad(
        function(*inputs, "cpu"), inputs, create_graph=True
    )
    torch.testing.assert_close(with_graph, gradients)

    expected = torch.autograd.grad(
        function(*inputs, "reference"), inputs, create_graph=True
    )
    torch.testing.assert_close(with_graph, expected)

    penalties = [
        torch.autograd.grad(sum(grad.square().sum() for grad in grads), inputs)
        for grads in (with_graph, expected)
    ]
    torch.testing.assert_close(*penalties)
