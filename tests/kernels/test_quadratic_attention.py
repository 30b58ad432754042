"""Dense, chunked and recurrent are one function, with one gradient; and the function is the one that Based and ReBased name."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from harness import compare

from kernels.attention_cases import CASES, FEATURE_MAPS, Attention, Case
from sae_lens_ext.errors import BackendError, InvalidArgument, ShapeMismatch
from sae_lens_ext.kernels import (
    AttentionState,
    quadratic_attention,
    quadratic_attention_step,
    quadratic_attention_with_state,
)
from sae_lens_ext.kernels.quadratic_attention import (
    plan,
    feature_map,
    feature_pairs,
    n_features,
    operator,
)

BASED, REBASED = FEATURE_MAPS["based"], FEATURE_MAPS["rebased"]
WAYS = [
    ("dense", None),
    ("chunked", "reference"),
    ("chunked", "cpu"),
    ("auto", None),
    ("recurrent", None),
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    # Several chunks, the last one smaller, and several groups of heads.
    monkeypatch.setattr(plan, "CHUNK", 4)
    monkeypatch.setattr(plan, "_SCORES", 32)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("kernel", FEATURE_MAPS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("with_state", [False, True])
def test_on_a_cpu_it_agrees_with_the_definition_in_outputs_and_all_gradients(
    case, kernel, dtype, with_state
):
    plain, fast = (
        Attention(FEATURE_MAPS[kernel], form, backend)
        for form, backend in (("dense", "reference"), ("chunked", "cpu"))
    )
    compare(fast, plain, case.inputs(FEATURE_MAPS[kernel], with_state), dtype)


@pytest.mark.parametrize("kernel", FEATURE_MAPS)
def test_reading_thousands_of_features_is_as_accurate_as_the_definition(kernel):
    c = FEATURE_MAPS[kernel]
    inputs = Case(1, 1, 3, 65, 2).inputs(c, with_state=True)
    plain = Attention(c, "dense", "reference")
    compare(Attention(c, "chunked", "cpu"), plain, inputs, torch.float32)


@pytest.mark.parametrize("kernel", FEATURE_MAPS)
@pytest.mark.parametrize(("form", "backend"), WAYS[1:])
def test_all_forms_are_one_function_in_float64(kernel, form, backend):
    for case in CASES:
        for with_state in (False, True):
            inputs = case.inputs(FEATURE_MAPS[kernel], with_state)
            found, expected = {}, {}
            for store, attention in (
                (found, Attention(FEATURE_MAPS[kernel], form, backend)),
                (expected, Attention(FEATURE_MAPS[kernel], "dense", "reference")),
            ):
                leaves = {
                    name: tensor.clone().requires_grad_()
                    for name, tensor in inputs.items()
                }
                store["out"] = attention(**leaves)
                store |= dict(
                    zip(
                        leaves,
                        torch.autograd.grad(
                            store["out"].sin().sum(), list(leaves.values())
                        ),
                        strict=True,
                    )
                )
            for name, truth in expected.items():
                torch.testing.assert_close(
                    found[name],
                    truth,
                    rtol=1e-10,
                    atol=1e-10 * truth.detach().abs().max().item(),
                    msg=name,
                )


@pytest.mark.parametrize("kernel", FEATURE_MAPS)
@pytest.mark.parametrize("split", [0, 1, 6, 11])
def test_going_on_from_a_state_is_one_long_call(kernel, split):
    inputs = CASES[2].inputs(FEATURE_MAPS[kernel])
    whole = quadratic_attention_with_state(**inputs, c=FEATURE_MAPS[kernel])
    first = quadratic_attention_with_state(
        **{name: one[..., :split, :] for name, one in inputs.items()}, c=FEATURE_MAPS[kernel]
    )
    rest = {name: one[..., split:, :] for name, one in inputs.items()}
    second = quadratic_attention_with_state(
        **rest, c=FEATURE_MAPS[kernel], state=first.state
    )
    torch.testing.assert_close(torch.cat([first.out, second.out], dim=-2), whole.out)
    torch.testing.assert_close(tuple(second.state), tuple(whole.state))


@pytest.mark.parametrize(("form", "backend"), WAYS)
def test_a_state_is_the_callers_and_stays_as_it_was(form, backend):
    inputs = CASES[1].inputs(REBASED)
    first = quadratic_attention_with_state(**inputs, form=form, backend=backend).state
    kept = [part.clone() for part in first]
    for rest in (inputs, {name: one[..., :0, :] for name, one in inputs.items()}):
        later = quadratic_attention_with_state(
            **rest, form=form, backend=backend, state=first
        ).state
        assert all(part.is_contiguous() for part in later)
        for part in later:
            part.fill_(7.0)
        assert all(torch.equal(*parts) for parts in zip(first, kept, strict=True))


def test_auto_is_the_form_that_multiplies_less(monkeypatch):
    monkeypatch.undo()
    chunks = []
    monkeypatch.setattr(
        operator,
        "run",
        lambda *arguments: (chunks.append(arguments[-1]), (arguments[3], None))[1],
    )

    def chunk(pos, d, state=None, form="auto"):
        q = torch.ones(pos, d)
        quadratic_attention(q, q, torch.ones(pos, 64), form=form, state=state)
        return chunks.pop()

    # Of wide queries and keys features are many, and a state is dear; 0 is one chunk of all tokens.
    assert [chunk(1024, d) for d in (4, 16, 64)] == [128, 128, 0]
    assert chunk(1024, 64, form="chunked") == 128
    # A state that was there before is read in any case.
    assert [
        chunk(2200, 64, state)
        for state in (None, AttentionState(torch.ones(2080, 64), torch.ones(2080)))
    ] == [0, 128]
    # But scores of all tokens with each other are kept from filling the memory.
    assert [chunk(pos, 128) for pos in (4096, 4097)] == [0, 128]


def test_tokens_one_by_one_are_one_call():
    inputs, state, outs = CASES[2].inputs(BASED), None, []
    for token in range(inputs["q"].shape[-2]):
        out, state = quadratic_attention_step(
            *(one[..., token, :] for one in inputs.values()), state, c=BASED
        )
        outs.append(out)
    torch.testing.assert_close(
        torch.stack(outs, dim=-2), quadratic_attention(**inputs, c=BASED)
    )


@pytest.mark.parametrize("kernel", FEATURE_MAPS)
@pytest.mark.parametrize("d", [1, 2, 3, 8, 16])
def test_products_of_features_are_the_kernel(kernel, d):
    c, scale = FEATURE_MAPS[kernel], 1 / math.sqrt(d)
    g = torch.Generator().manual_seed(d)
    q, k = torch.randn(2, 40, d, generator=g, dtype=torch.float64)
    s = scale * (q * k).sum(-1)
    products = (feature_map(q, c, scale) * feature_map(k, c, scale)).sum(-1)
    torch.testing.assert_close(
        products, c[0] + c[1] * s + c[2] * s**2, rtol=1e-12, atol=1e-12
    )
    assert feature_map(q, c, scale).shape[-1] == n_features(d, c)
    assert (
        len({tuple(sorted(pair)) for pair in feature_pairs(d).tolist()})
        == d * (d + 1) // 2
    )


def test_the_published_numbers_of_features():
    assert n_features(16, BASED) == 153
    assert n_features(16, REBASED) == 136


def test_squaring_every_coordinate_is_another_kernel():
    """The papers say "element-wise"; what they run is the square of the product, and this is not it."""
    q, k = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])
    assert float(q.square() @ k.square()) != float((q @ k).square())
    torch.testing.assert_close(
        feature_map(q, REBASED, 1.0) @ feature_map(k, REBASED, 1.0), (q @ k).square()
    )


def test_based_never_ignores_a_token_and_rebased_can():
    """Claims 1 and 2: a kernel of at least 1/2, so a share of at least 1/2 of what 1/2 and the others make."""
    s = torch.linspace(-60, 60, 12001, dtype=torch.float64)
    based = 1 + s + s**2 / 2
    assert based.min() == 0.5
    assert s[based.argmin()] == pytest.approx(-1)
    values = torch.eye(3, dtype=torch.float64)
    q, k = (
        torch.tensor([[1.0], [1.0], [1.0]], dtype=torch.float64),
        torch.tensor([[-1.0], [5.0], [2.0]], dtype=torch.float64),
    )
    pattern = quadratic_attention(q, k, values, BASED, scale=1.0)
    others = sum(1 + s + s**2 / 2 for s in (5.0, 2.0))
    torch.testing.assert_close(
        pattern[2, 0], torch.tensor(0.5 / (0.5 + others), dtype=torch.float64)
    )
    at_a_right_angle = (
        torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
        torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
    )
    assert quadratic_attention(*at_a_right_angle, torch.eye(2), REBASED).tolist() == [
        [0.0, 0.0],
        [0.5, 0.5],
    ]
    for others_at, wanted in ((255, 46.9), (2047, 134.7)):
        # 90 percent of the mass, when all others are at the minimum.
        root = -1 + math.sqrt(2 * 0.9 * 0.5 * others_at / 0.1 - 1)
        assert root == pytest.approx(wanted, abs=0.05)


def test_a_pattern_sums_to_one_and_looks_back_only():
    for name, c in FEATURE_MAPS.items():
        inputs = CASES[2].inputs(c)
        pos = inputs["q"].shape[-2]
        pattern = quadratic_attention(
            inputs["q"],
            inputs["k"],
            torch.eye(pos, dtype=torch.float64).expand(*inputs["q"].shape[:-1], pos),
            c,
        )
        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
        assert torch.equal(pattern, pattern.tril())
        assert (pattern >= 0).all() or name == "linear"


def test_a_larger_score_everywhere_changes_based_and_not_rebased():
    inputs = CASES[2].inputs(BASED)
    louder = {**inputs, "q": inputs["q"] * 3}
    torch.testing.assert_close(
        quadratic_attention(**louder, c=REBASED),
        quadratic_attention(**inputs, c=REBASED),
    )
    assert not torch.allclose(
        quadratic_attention(**louder, c=BASED),
        quadratic_attention(**inputs, c=BASED),
        rtol=0.01,
    )


@pytest.mark.parametrize(("form", "backend"), WAYS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str
)
def test_what_cancels_in_a_state_weighs_nothing(form, backend, dtype):
    """Every score is exactly 0, and the sum over features is not: the square root of 2 is rounded."""
    q = torch.ones(9, 2, dtype=dtype)
    k, v = (
        torch.arange(1, 10, dtype=dtype).unsqueeze(1) * torch.tensor(of, dtype=dtype)
        for of in ([1.0, -1.0], [1.0])
    )
    state = quadratic_attention_with_state(q, k, v).state
    leaves = [one.clone().requires_grad_() for one in (q, k, v, *state)]
    found = quadratic_attention_with_state(
        *leaves[:3], form=form, backend=backend, state=AttentionState(*leaves[3:])
    )
    assert found.out.eq(0).all()
    for gradient in torch.autograd.grad(found.out.sum(), leaves):
        assert gradient.eq(0).all()
    # With one token more, that is seen, there is something to read again.
    seen = quadratic_attention(
        q[:1],
        q[:1],
        v[:1] + 4,
        form=form,
        backend=backend,
        state=AttentionState(*(one.detach() for one in state)),
    )
    torch.testing.assert_close(seen, v[:1] + 4, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("form", "backend"), WAYS)
def test_queries_nearly_at_right_angles_to_all_keys_read_no_noise(
    form, backend, monkeypatch
):
    monkeypatch.undo()
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, 16, generator=g, dtype=torch.float64),
        *(torch.randn(2000, d, generator=g) for d in (16, 3)),
    )
    direction = (q / q.norm()).squeeze(0)
    for off in (1e-4, 3e-4, 1e-3):
        # Exactly so far off, before it is rounded.
        keys = k.double()
        keys = keys + torch.outer(
            off * torch.randn(2000, generator=g, dtype=torch.float64)
            - keys @ direction,
            direction,
        )
        out = quadratic_attention(
            q.float().expand(2000, 16), keys.float(), v, form=form, backend=backend
        )
        assert out.abs().max() <= v.abs().max() * (1 + 1e-3)


def test_the_first_token_reads_its_own_value_whatever_its_score():
    """A score that is squared as a number is small, and not noise."""
    g = torch.Generator().manual_seed(0)
    q, k = (
        torch.nn.functional.layer_norm(torch.randn(20_000, 16, generator=g), (16,))
        for _ in range(2)
    )
    v = torch.randn(20_000, 2, generator=g)
    out = quadratic_attention_step(q, k, v, None).out
    # Below that eps counts, and the rounding of the score.
    plain = ((q * k).sum(-1) / 4).abs() > 1e-3
    torch.testing.assert_close(out[plain], v[plain], rtol=1e-3, atol=0)
    assert (out.abs() <= v.abs() * 1.001).all()


@pytest.mark.parametrize(("form", "backend"), WAYS)
def test_autocast_changes_nothing(form, backend):
    inputs, found = CASES[2].inputs(BASED, with_state=True), []
    for is_on in (False, True):
        leaves = {
            name: tensor.float().requires_grad_() for name, tensor in inputs.items()
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=is_on):
            out = Attention(BASED, form, backend)(**leaves)
        found.append(
            (out, *torch.autograd.grad(out.square().sum(), list(leaves.values())))
        )
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("create_graph", [False, True])
def test_autocast_changes_no_gradient_that_is_found_in_it(create_graph):
    inputs, found = CASES[2].inputs(BASED, with_state=True), []
    for is_on in (False, True):
        leaves = {
            name: tensor.float().requires_grad_() for name, tensor in inputs.items()
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=is_on):
            out = Attention(BASED, "chunked", "cpu")(**leaves)
            found.append(
                torch.autograd.grad(
                    out.square().sum(), list(leaves.values()), create_graph=create_graph
                )
            )
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("form", ["dense", "chunked", "recurrent"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_a_token_that_weighs_nothing_gets_nothing_and_breaks_nothing(form, dtype):
    q, k, v = (torch.zeros(9, d, dtype=dtype, requires_grad=True) for d in (4, 4, 2))
    out = quadratic_attention(q, k, v + 1, form=form)
    assert out.tolist() == [[0.0, 0.0]] * 9
    for gradient in torch.autograd.grad(out.sum(), (q, k, v)):
        assert torch.isfinite(gradient).all()


def test_half_precision_sums_what_it_cannot_hold():
    q = torch.full((300, 16), 30.0, dtype=torch.float16)
    assert (
        quadratic_attention(q, q, torch.ones(300, 1, dtype=torch.float16)).tolist()
        == [[1.0]] * 300
    )


def test_gradients_of_gradients():
    inputs = {
        name: tensor[:1, :3].requires_grad_()
        for name, tensor in CASES[1].inputs(BASED).items()
    }
    for c in (BASED, REBASED):
        assert torch.autograd.gradgradcheck(
            lambda q, k, v, c=c: quadratic_attention(q, k, v, c, form="chunked"),
            tuple(inputs.values()),
        )


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_any_leading_shape(shape):
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(*shape, 9, d, generator=g, dtype=torch.float64) for d in (3, 3, 2)
    )
    state = quadratic_attention_with_state(q, k, v).state
    assert state.kv.shape == (*shape, 6, 2)
    found = quadratic_attention_with_state(q, k, v, state=state)
    expected = quadratic_attention_with_state(q, k, v, state=state, form="recurrent")
    torch.testing.assert_close(found.out, expected.out)
    torch.testing.assert_close(tuple(found.state), tuple(expected.state))


@pytest.mark.parametrize("form", ["auto", "dense", "chunked", "recurrent"])
def test_one_token_sees_itself(form):
    v = torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(
        quadratic_attention(torch.ones(1, 2), torch.ones(1, 2), v, form=form), v
    )


@pytest.mark.parametrize("form", ["auto", "dense", "chunked", "recurrent"])
def test_no_token_at_all(form):
    out, state = quadratic_attention_with_state(
        torch.ones(2, 0, 3), torch.ones(2, 0, 3), torch.ones(2, 0, 4), form=form
    )
    assert out.shape == (2, 0, 4)
    assert state.kv.tolist() == torch.zeros(2, 6, 4).tolist()


@pytest.mark.usefixtures("without_shape_checks")
def test_what_does_not_fit_is_refused():
    q, v = torch.ones(5, 3), torch.ones(5, 2)
    with pytest.raises(
        ShapeMismatch,
        match=r"q and k must have one shape \[..., pos, d\], d not 0; got \[5, 3\] and \[4, 3\]",
    ):
        quadratic_attention(q, q[:4], v)
    with pytest.raises(ShapeMismatch, match=r"d not 0; got \[5, 0\] and \[5, 0\]"):
        quadratic_attention(q[:, :0], q[:, :0], v)
    with pytest.raises(
        ShapeMismatch, match=r"v must be .* of k \[5, 3\]; got \[4, 2\]"
    ):
        quadratic_attention(q, q, v[:4])
    with pytest.raises(
        InvalidArgument,
        match="must be of one floating dtype, and are q torch.float32, k torch.float64",
    ):
        quadratic_attention(q, q.double(), v)
    small = [one.to(torch.float8_e4m3fn) for one in (q, q, v)]
    with pytest.raises(
        InvalidArgument,
        match="and are q torch.float8_e4m3fn, .*; cast them to one of 16 bits or more",
    ):
        quadratic_attention(*small)
    with pytest.raises(InvalidArgument, match="v must be a torch tensor; got a list"):
        quadratic_attention(q, q, [[1.0]])


@pytest.mark.usefixtures("without_shape_checks")
def test_one_token_that_does_not_fit_is_refused_in_its_own_axes():
    q, v = torch.ones(5, 3), torch.ones(5, 2)
    with pytest.raises(
        ShapeMismatch,
        match=r"q and k must have one shape \[..., d\], d not 0; got \[5, 3\] and \[4, 3\]",
    ):
        quadratic_attention_step(q, q[:4], v, None)
    with pytest.raises(
        ShapeMismatch,
        match=r"v must be \[..., d_v\] with the leading axes of k \[5, 3\]; got \[4, 2\]",
    ):
        quadratic_attention_step(q, q, v[:4], None)
    with pytest.raises(InvalidArgument, match="q must be a torch tensor; got a float"):
        quadratic_attention_step(1.0, q, v, None)


@pytest.mark.usefixtures("without_shape_checks")
def test_what_is_no_state_is_refused():
    q, v = torch.ones(5, 3), torch.ones(5, 2)
    state = AttentionState(torch.zeros(6, 2), torch.zeros(6))
    remedy = "; take it from the .state of quadratic_attention_with_state"
    with pytest.raises(
        ShapeMismatch,
        match=r"the state must be kv \[10, 2\] and k \[10\] for these values, and coefficients; got \[6, 2\].*"
        + remedy,
    ):
        quadratic_attention(q, q, v, BASED, state=state)
    with pytest.raises(
        InvalidArgument,
        match="the state must be torch.float64, in which sums are made; got torch.float32.*"
        + remedy,
    ):
        quadratic_attention(q.double(), q.double(), v.double(), state=state)
    for wrong, found in (
        (tuple(state), "a tuple"),
        (AttentionState(state.kv, 1), "Tensor, int"),
        (state.kv, "a Tensor"),
    ):
        with pytest.raises(
            InvalidArgument,
            match=f"state must be an AttentionState of two tensors; got {found}{remedy}",
        ):
            quadratic_attention(q, q, v, state=wrong)


@pytest.mark.usefixtures("without_shape_checks")
def test_numbers_that_make_no_kernel_are_refused():
    q, v = torch.ones(5, 3), torch.ones(5, 2)
    for c in (
        (1.0, -1.0, 1.0),
        (0.0, 0.0, 0.0),
        (1.0, 1.0),
        (1.0, 1.0, float("nan")),
        "001",
        (torch.ones(()), 0.0, 0.0),
    ):
        with pytest.raises(
            InvalidArgument,
            match="c must be three numbers c0, c1, c2, none below 0 and not all 0; got",
        ):
            quadratic_attention(q, q, v, c)
        with pytest.raises(InvalidArgument, match="c must be three numbers"):
            feature_map(q, c, 1.0)
    for scale in (-1.0, 0.0, math.inf, math.nan, "1", 1j, torch.ones(())):
        with pytest.raises(
            InvalidArgument,
            match=r"scale must be a number above 0; got .*; for another .*, multiply q by a tensor",
        ):
            quadratic_attention(q, q, v, scale=scale)
        with pytest.raises(InvalidArgument, match="scale must be a number above 0"):
            feature_map(q, BASED, scale)
    for eps in (0.0, -1e-12, None, "1", 1e-39, torch.ones(())):
        with pytest.raises(
            InvalidArgument,
            match="eps must be a number above 0, and at least 1.2e-38, the smallest of torch.float32; got",
        ):
            quadratic_attention(q, q, v, eps=eps)
    with pytest.raises(
        InvalidArgument, match="at least 2.2e-308, the smallest of torch.float64; got 0"
    ):
        quadratic_attention(q.double(), q.double(), v.double(), eps=0)


@pytest.mark.usefixtures("without_shape_checks")
def test_numbers_of_any_kind_are_numbers():
    q, v = torch.ones(5, 3), torch.ones(5, 2)
    found = quadratic_attention(
        q,
        q,
        v,
        [np.float32(1), 1, Fraction(1, 2)],
        scale=np.float32(0.5),
        eps=np.float64(1e-12),
    )
    assert torch.equal(found, quadratic_attention(q, q, v, BASED, scale=0.5))


@pytest.mark.usefixtures("without_shape_checks")
def test_a_form_or_backend_that_is_not_there_is_refused():
    q, v = torch.ones(5, 3), torch.ones(5, 2)
    with pytest.raises(
        InvalidArgument,
        match="form must be one of auto, dense, chunked, recurrent; got 'fast'",
    ):
        quadratic_attention(q, q, v, form="fast")
    with pytest.raises(
        BackendError, match="backend='gpu' was asked for, but the tensors are on cpu"
    ):
        quadratic_attention(q, q, v, backend="gpu")
    for form in ("dense", "recurrent"):
        wanted = f"backend='cpu' was asked for, but form='{form}' is plain torch; leave backend out or pass backend='reference'"
        with pytest.raises(BackendError, match=wanted):
            quadratic_attention(q, q, v, form=form, backend="cpu")
        quadratic_attention(q, q, v, form=form, backend="reference")
