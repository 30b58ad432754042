"""What torch asks of an operator: one step for torch.compile, shapes without numbers, derivatives of derivatives."""

import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import sae_lens_ext as sle
from kernels.marks import by_triton
from sae_lens_ext.kernels import hierarchical_loss, sparse_decode, topk_encode

N, D, F, K = 7, 5, 11, 3


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "x": (N, D),
        "W_enc": (D, F),
        "b_enc": (F,),
        "W_dec": (F, D),
        "b_dec": (D,),
        "target": (N, D),
    }
    made = {
        name: torch.randn(
            shape, generator=generator, dtype=torch.float64
        ).requires_grad_()
        for name, shape in shapes.items()
    }
    return made


def _loss_of(kernel, t, backend):
    values, indices = topk_encode(
        t["x"].detach(), t["W_enc"].detach(), t["b_enc"].detach(), K
    )
    values = values.detach().requires_grad_()
    if kernel == "topk_encode":
        return topk_encode(
            t["x"], t["W_enc"], t["b_enc"], K, backend, centre=t["b_dec"]
        )[0].pow(3).sum(), ["x", "W_enc", "b_enc", "b_dec"]
    if kernel == "sparse_decode":
        return sparse_decode(
            values, indices, t["W_dec"], t["b_dec"], backend=backend
        ).pow(3).sum(), ["W_dec", "b_dec"]
    loss = hierarchical_loss(
        values, indices, t["W_dec"], t["b_dec"], t["target"], backend=backend
    )
    return loss, ["W_dec", "b_dec", "target"]


@pytest.mark.parametrize("by_backward", [True, False])
@pytest.mark.parametrize(
    "kernel", ["topk_encode", "sparse_decode", "hierarchical_loss"]
)
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
        torch.testing.assert_close(
            ours, theirs, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_gradient_penalty_on_a_reconstruction_is_that_of_dense_algebra():
    sae = sle.SAE(sle.SAEConfig(d_model=D, d_sae=F, k=K), dtype=torch.float64)
    x = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    sae(x).square().sum().backward()  # the first derivative still is the fast one
    chosen = sae.encode(x).indices

    def dense(x):
        pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
        return (
            pre * torch.zeros_like(pre).scatter(1, chosen, 1.0)
        ) @ sae.W_dec + sae.b_dec

    penalties = []
    for function in (sae, dense):
        (gradient,) = torch.autograd.grad(
            function(x).square().sum(), x, create_graph=True
        )
        penalties.append(torch.autograd.grad(gradient.square().sum(), x)[0])
    torch.testing.assert_close(*penalties)


def _in_a_process(code, **environment):
    # Without run-time shape checks, which the compiler cannot see through.
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr[-4000:]


_MADE = """
import warnings
import torch, sae_lens_ext as sle
from sae_lens_ext.kernels import hierarchical_loss, hierarchical_loss_parts, sparse_decode, topk_encode
backend, g = {backend!r}, torch.Generator().manual_seed(0)
shapes = {{"x": (3, 5), "W_enc": (5, 11), "b_enc": (11,), "W_dec": (11, 5), "b_dec": (5,), "target": (3, 5)}}
t = {{name: torch.randn(shape, generator=g).requires_grad_() for name, shape in shapes.items()}}
values, indices = (one.detach() for one in topk_encode(t["x"], t["W_enc"], t["b_enc"], 3, backend=backend))
code = values.requires_grad_(), indices, t["W_dec"], t["b_dec"]
sparse_decode(*code, backend=backend), hierarchical_loss(*code, t["target"], backend=backend)
"""
_OPCHECKS = """
operators = torch.ops.sae_lens_ext
def check(name, *arguments):
    torch.library.opcheck(getattr(operators, name.format(backend)).default, arguments)
for centre in (None, t["b_dec"]):
    check("topk_encode_{}", t["x"], t["W_enc"], t["b_enc"], centre, 3)
check("sparse_decode_{}", *code)
for needs, details in (([True] * 4, True), ([False] * 4, False), ([True, False, True, False], False)):
    wanted = iter(needs)
    some = [one.detach().requires_grad_(next(wanted)) if one.is_floating_point() else one for one in (*code, t["target"])]
    check("hierarchical_loss_{}", *some, [1, 3], [0.5, 0.5], needs, details, False)
fixed = [one.detach() for one in (values, indices, t["W_dec"], t["x"], t["W_enc"])]
for needs in ([True] * 4, [False, True, False, False]):
    check("sparse_decode_{}_gradients", torch.randn(3, 5), fixed[0], fixed[1], fixed[2], *needs[:2])
    check("topk_encode_{}_gradients", torch.randn(3, 3), fixed[3], fixed[4], None, fixed[0], fixed[1], *needs)
"""
_ATTENTION = """
from sae_lens_ext.kernels import AttentionState, quadratic_attention, quadratic_attention_with_state
g = torch.Generator().manual_seed(0)
q, k, v = (torch.randn(1, 3, d, generator=g).requires_grad_() for d in (2, 2, 2))
state = quadratic_attention_with_state(q.detach(), k.detach(), v.detach(), (1.0, 1.0, 0.5), backend=backend).state
state = AttentionState(*(one.requires_grad_() for one in state))
before = torch.cat([state.kv, state.k.unsqueeze(-1)], -1).detach().requires_grad_()
operator, gradients = (getattr(torch.ops.sae_lens_ext, "quadratic_attention_" + backend + of) for of in ("", "_gradients"))
numbers = [1.0, 1.0, 0.5], 0.5, 1e-12, 32
for given, wants_state in ((None, False), (before, True)):
    torch.library.opcheck(operator.default, (q, k, v, given, *numbers, wants_state))
    out, divisor, after = (one.detach() for one in operator(q, k, v, given, *numbers, wants_state))
    fixed = [one.detach() for one in (q, k, v)] + [None if given is None else given.detach()]
    torch.library.opcheck(
        gradients.default, (torch.ones_like(v).detach(), after if wants_state else None, out, divisor, *fixed, *numbers)
    )

def attend(q, k, v, kv, k_sum):
    out = quadratic_attention(q, k, v, (1.0, 1.0, 0.5), state=AttentionState(kv, k_sum), backend=backend)
    later = quadratic_attention_with_state(q, k, v, backend=backend)
    return out.sum() + later.out.square().sum() + later.state.kv.square().sum()

inputs = q, k, v, *state
found, plain = torch.compile(attend, backend="aot_eager", fullgraph=True)(*inputs), attend(*inputs)
torch.testing.assert_close(found, plain)
torch.testing.assert_close(torch.autograd.grad(found, inputs), torch.autograd.grad(plain, inputs))
"""
_COMPILED = """
def step(x, W_enc, b_enc, W_dec, b_dec, target):
    values, indices = topk_encode(x, W_enc, b_enc, 3, backend, centre=b_dec)
    parts = hierarchical_loss_parts(values, indices, W_dec, b_dec, target, levels=[1, 3], backend=backend)
    decoded = sparse_decode(values, indices, W_dec, b_dec, backend=backend)
    return parts.loss * 3 + decoded.square().mean(), parts.per_level, parts.reconstruction

compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
plain, found = step(*t.values()), compiled(*t.values())
torch.testing.assert_close(found, plain)
torch.testing.assert_close(torch.autograd.grad(found[0], t.values()), torch.autograd.grad(plain[0], t.values()))
longer = [torch.cat([one, one]).detach().requires_grad_() if name in ("x", "target") else one for name, one in t.items()]
torch.testing.assert_close(compiled(*longer), step(*longer))
sae = sle.SAE(sle.SAEConfig(d_model=5, d_sae=11, k=3))
def chosen(x):
    values, indices = topk_encode(x, t["W_enc"], t["b_enc"], 3)
    loss = hierarchical_loss(values, indices, t["W_dec"], t["b_dec"], t["target"])
    return loss + sparse_decode(values, indices, t["W_dec"], t["b_dec"]).square().mean()

def slope(x):
    return torch.func.jvp(chosen, (x,), (torch.ones_like(x),))[1]
x = t["x"].detach()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch has some about itself here
    expected = slope(x)
    torch.testing.assert_close(torch.compile(slope, backend="aot_eager")(x), expected)
assert expected.abs() > 0
whole = torch.compile(lambda x: sae(x, 2) + 1, backend="aot_eager", fullgraph=True)
torch.testing.assert_close(whole(t["x"]), sae(t["x"], 2) + 1)
"""


_NUMBERS = """
def attend(q, k, v, c, scale, eps, form):
    return quadratic_attention(q, k, v, c, scale, form, eps=eps)

for form, dynamic in (("auto", None), ("dense", True)):
    torch._dynamo.reset()
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for d, c0, scale, eps in ((4, 0.0, None, 1e-12), (8, 0.5, 0.5, 1e-12), (8, 0.75, 0.25, 1e-6), (7, 0.6, 0.2, 1e-5)):
        q = torch.arange(5.0 * d).sin().view(1, 5, d)
        given = q, q.cos(), q + 1, (c0, 0.0, 1.0), scale, eps, form
        torch.testing.assert_close(compiled(*given), attend(*given))
"""


# One process for all of them: loading the compiler takes longer than most. Other widths and numbers than at first are no reason
# to leave it, for which no GPU is needed.
@pytest.mark.parametrize(
    ("backend", "more"),
    [
        pytest.param("cpu", _NUMBERS, id="cpu"),
        pytest.param("gpu", "", id="gpu", marks=by_triton),
    ],
)
def test_torch_accepts_the_operators(backend, more):
    environment = {"TRITON_INTERPRET": "1"} if backend == "gpu" else {}
    _in_a_process(
        _MADE.format(backend=backend) + _OPCHECKS + _ATTENTION + _COMPILED + more,
        **environment,
    )


def test_shapes_without_numbers_are_enough():
    sae = sle.SAE(sle.SAEConfig(d_model=D, d_sae=F, k=K))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(torch.randn(2, N, D))
        assert sae(x).shape == (2, N, D)
        assert sae.encode(x, 2).values.shape == (2, N, 2)


def _each(x, **options):
    """Every kernel, on what the first one finds in ``x``."""
    W_dec = torch.arange(F * D).sin().view(F, D).to(x.dtype)
    W_enc = W_dec.T
    zeros = torch.zeros(F, dtype=x.dtype), torch.zeros(D, dtype=x.dtype)
    values, indices = topk_encode(x, W_enc, zeros[0], K, **options)
    decoded = sparse_decode(values, indices, W_dec, zeros[1], **options)
    return decoded.square().sum() + hierarchical_loss(
        values, indices, W_dec, zeros[1], x, **options
    )


# What torch warns about here is a part of its own.
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)
def test_forward_mode_and_function_transforms_give_the_derivatives_of_the_definition():
    x, direction = (
        torch.randn(N, D, dtype=torch.float64),
        torch.randn(N, D, dtype=torch.float64),
    )
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(_each(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(_each)(x), expected)
    torch.testing.assert_close(
        torch.func.jvp(_each, (x,), (direction,))[1], (expected * direction).sum()
    )
    with forward_ad.dual_level():
        out = forward_ad.unpack_dual(_each(forward_ad.make_dual(x, direction)))
    torch.testing.assert_close(out.tangent, (expected * direction).sum())
    with pytest.raises(
        sle.BackendError,
        match="it has no derivatives for torch.func and forward mode; leave backend out",
    ):
        torch.func.grad(lambda x: _each(x, backend="cpu"))(x)


@pytest.mark.parametrize("backend", [None, "cpu", "reference"])
def test_vmap_is_refused_in_words(backend):
    x = torch.randn(2, N, D)
    for function in (
        torch.vmap(lambda x: _each(x, backend=backend)),
        torch.func.grad(lambda x: torch.vmap(_each)(x).sum()),
    ):
        with pytest.raises(
            sle.InvalidArgument,
            match="cannot be run under vmap; .* so pass the whole batch at once",
        ):
            function(x)
    with pytest.raises(sle.InvalidArgument, match="under vmap"):
        torch.vmap(sle.SAE(sle.SAEConfig(d_model=D, d_sae=F, k=K)))(x)
