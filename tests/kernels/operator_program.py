"""Check the operators with torch's own means: ``python operator_program.py BACKENDS``.

``test_operator.py`` runs it as a program, because torch.compile cannot trace through
the run-time shape checks of the tests. One program for all checks and backends, because
loading the compiler takes longer than most of them.
"""

import sys
import warnings

import torch

import sae_lens_ext as sle
from sae_lens_ext.kernels import (
    AttentionState,
    hierarchical_loss,
    hierarchical_loss_parts,
    quadratic_attention,
    quadratic_attention_with_state,
    sparse_decode,
    topk_encode,
)

N = 3
D_MODEL = 5
D_SAE = 11
K = 3
BASED = (1.0, 1.0, 0.5)
SHAPES = {
    "x": (N, D_MODEL),
    "W_enc": (D_MODEL, D_SAE),
    "b_enc": (D_SAE,),
    "W_dec": (D_SAE, D_MODEL),
    "b_dec": (D_MODEL,),
    "target": (N, D_MODEL),
}


def make_tensors():
    g = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=g).requires_grad_()
        for name, shape in SHAPES.items()
    }


def make_threshold():
    """Some features are below it that are above 0."""
    return torch.arange(D_SAE) / D_SAE


def detached(*tensors):
    return [None if tensor is None else tensor.detach() for tensor in tensors]


def check_operators(t, backend):
    values, indices = topk_encode(t["x"], t["W_enc"], t["b_enc"], K, backend=backend)
    values = values.detach().requires_grad_()
    code = (values, indices, t["W_dec"], t["b_dec"])
    # Both operators are registered once they have run.
    sparse_decode(*code, backend=backend)
    hierarchical_loss(*code, t["target"], backend=backend)

    def check(name, *arguments):
        operator = getattr(torch.ops.sae_lens_ext, name.format(backend))
        torch.library.opcheck(operator.default, arguments)

    encoder = (t["x"], t["W_enc"], t["b_enc"])
    for centre, threshold, k in (
        (None, None, K),
        (t["b_dec"], None, None),
        (t["b_dec"], make_threshold(), K),
        (None, make_threshold(), None),
    ):
        check("topk_encode_{}", *encoder, centre, threshold, k)
    check("sparse_decode_{}", *code)

    levels = [1, 3]
    weights = [0.5, 0.5]
    for needs, details in (
        ([True] * 4, True),
        ([False] * 4, False),
        ([True, False, True, False], False),
    ):
        leaves = detached(values, t["W_dec"], t["b_dec"], t["target"])
        for leaf, is_needed in zip(leaves, needs, strict=True):
            leaf.requires_grad_(is_needed)
        values_leaf, *others = leaves
        check(
            "hierarchical_loss_{}",
            values_leaf,
            indices,
            *others,
            levels,
            weights,
            needs,
            details,
            False,
        )

    values, W_dec, x, W_enc = detached(values, t["W_dec"], t["x"], t["W_enc"])
    for needs in ([True] * 4, [False, True, False, False]):
        grad = torch.randn(N, D_MODEL)
        check("sparse_decode_{}_gradients", grad, values, indices, W_dec, *needs[:2])
        grad = torch.randn(N, K)
        check("topk_encode_{}_gradients", grad, x, W_enc, None, values, indices, *needs)


def make_attention_inputs(backend):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 3, 2, generator=g).requires_grad_() for _ in range(3))
    state = quadratic_attention_with_state(
        *detached(q, k, v), BASED, backend=backend
    ).state
    kv, k_sum = (part.requires_grad_() for part in state)
    return q, k, v, kv, k_sum


def check_attention_operators(backend):
    q, k, v, kv, k_sum = make_attention_inputs(backend)
    state = torch.cat([kv, k_sum.unsqueeze(-1)], -1).detach().requires_grad_()
    name = f"quadratic_attention_{backend}"
    operator = getattr(torch.ops.sae_lens_ext, name).default
    gradients = getattr(torch.ops.sae_lens_ext, f"{name}_gradients").default
    # Coefficients, scale, eps and chunk.
    numbers = (list(BASED), 0.5, 1e-12, 32)

    for initial_state, wants_state in ((None, False), (state, True)):
        inputs = (q, k, v, initial_state)
        torch.library.opcheck(operator, (*inputs, *numbers, wants_state))

        out, divisor, final_state = detached(*operator(*inputs, *numbers, wants_state))
        grad_state = final_state if wants_state else None
        results = (torch.ones_like(out), grad_state, out, divisor)
        torch.library.opcheck(gradients, (*results, *detached(*inputs), *numbers))


def check_compiled_attention(backend):
    def attend(q, k, v, kv, k_sum):
        state = AttentionState(kv, k_sum)
        out = quadratic_attention(q, k, v, BASED, state=state, backend=backend)
        later = quadratic_attention_with_state(q, k, v, backend=backend)
        return out.sum() + later.out.square().sum() + later.state.kv.square().sum()

    inputs = make_attention_inputs(backend)
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    expected = attend(*inputs)
    result = compiled(*inputs)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(
        torch.autograd.grad(result, inputs), torch.autograd.grad(expected, inputs)
    )


def check_compiled_step(t, backend):
    def step(x, W_enc, b_enc, W_dec, b_dec, target):
        values, indices = topk_encode(x, W_enc, b_enc, K, backend, centre=b_dec)
        decoder = (W_dec, b_dec)
        parts = hierarchical_loss_parts(
            values, indices, *decoder, target, levels=[1, 3], backend=backend
        )
        decoded = sparse_decode(values, indices, *decoder, backend=backend)
        total = parts.loss * 3 + decoded.square().mean()
        return total, parts.per_level, parts.reconstruction

    inputs = list(t.values())
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    expected = step(*inputs)
    results = compiled(*inputs)
    torch.testing.assert_close(results, expected)
    torch.testing.assert_close(
        torch.autograd.grad(results[0], inputs),
        torch.autograd.grad(expected[0], inputs),
    )

    # Another batch size is no reason to leave the compiled function.
    longer = dict(t)
    for name in ("x", "target"):
        longer[name] = torch.cat([t[name], t[name]]).detach().requires_grad_()
    torch.testing.assert_close(compiled(*longer.values()), step(*longer.values()))


def check_compiled_uncapped_step(t, backend):
    """The width depends on the data, and is another for another batch."""

    def step(x, W_enc, b_enc, W_dec, b_dec):
        values, indices = topk_encode(
            x, W_enc, b_enc, None, backend, centre=b_dec, threshold=make_threshold()
        )
        decoded = sparse_decode(values, indices, W_dec, b_dec, backend=backend)
        return values.square().sum() + decoded.square().sum()

    x, *weights = list(t.values())[:-1]
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for factor in (1, -3):
        inputs = [(x * factor).detach().requires_grad_(), *weights]
        expected = step(*inputs)
        result = compiled(*inputs)
        torch.testing.assert_close(result, expected)
        torch.testing.assert_close(
            torch.autograd.grad(result, inputs), torch.autograd.grad(expected, inputs)
        )


def check_compiled_forward_mode(t):
    def total(x):
        values, indices = topk_encode(x, t["W_enc"], t["b_enc"], K)
        code = (values, indices, t["W_dec"], t["b_dec"])
        loss = hierarchical_loss(*code, t["target"])
        return loss + sparse_decode(*code).square().mean()

    def slope(x):
        return torch.func.jvp(total, (x,), (torch.ones_like(x),))[1]

    x = t["x"].detach()
    compiled = torch.compile(slope, backend="aot_eager")
    with warnings.catch_warnings():
        # torch warns here about parts of its own.
        warnings.simplefilter("ignore")
        expected = slope(x)
        torch.testing.assert_close(compiled(x), expected)
    assert expected.abs() > 0


def check_compiled_sae(t):
    sae = sle.SAE(sle.SAEConfig(d_model=D_MODEL, d_sae=D_SAE, k=K))
    compiled = torch.compile(
        lambda x: sae(x, 2) + 1, backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(t["x"]), sae(t["x"], 2) + 1)


def check_compiled_attention_numbers():
    """Other widths and numbers than at first are no reason to compile in vain."""

    def attend(q, k, v, c, scale, eps, form):
        return quadratic_attention(q, k, v, c, scale, form, eps=eps)

    for form, dynamic in (("auto", None), ("dense", True)):
        torch._dynamo.reset()
        compiled = torch.compile(
            attend, backend="aot_eager", fullgraph=True, dynamic=dynamic
        )
        for d, c0, scale, eps in (
            (4, 0.0, None, 1e-12),
            (8, 0.5, 0.5, 1e-12),
            (8, 0.75, 0.25, 1e-6),
            (7, 0.6, 0.2, 1e-5),
        ):
            q = torch.arange(5.0 * d).sin().view(1, 5, d)
            arguments = (q, q.cos(), q + 1, (c0, 0.0, 1.0), scale, eps, form)
            torch.testing.assert_close(compiled(*arguments), attend(*arguments))


def main(backends):
    for backend in backends:
        torch._dynamo.reset()
        t = make_tensors()
        check_operators(t, backend)
        check_attention_operators(backend)
        check_compiled_attention(backend)
        check_compiled_step(t, backend)
        check_compiled_uncapped_step(t, backend)

    # Of the backends that the package chooses.
    t = make_tensors()
    check_compiled_forward_mode(t)
    check_compiled_sae(t)
    check_compiled_attention_numbers()


if __name__ == "__main__":
    main(sys.argv[1:])
