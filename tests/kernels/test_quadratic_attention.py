"""Dense, chunked and recurrent are one function, with one gradient; and the function is the one that Based and ReBased name."""

import math

import pytest
import torch
from harness import compare

from kernels.attention_cases import CASES, KERNELS, Attention
from sae_lens_ext.errors import BackendError, InvalidArgument, ShapeMismatch
from sae_lens_ext.kernels import AttentionState, quadratic_attention, quadratic_attention_step, quadratic_attention_with_state
from sae_lens_ext.kernels.quadratic_attention import cpu, feature_map, feature_pairs, n_features

BASED, REBASED = KERNELS["based"], KERNELS["rebased"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    # Several chunks, the last one smaller, and several groups of heads.
    monkeypatch.setattr(cpu, "_CHUNK", 4)
    monkeypatch.setattr(cpu, "_SCORES", 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("with_state", [False, True])
def test_on_a_cpu_it_agrees_with_the_definition_in_outputs_and_all_gradients(case, kernel, dtype, with_state):
    plain, fast = (Attention(KERNELS[kernel], form, backend) for form, backend in (("dense", "reference"), ("chunked", "cpu")))
    compare(fast, plain, case.inputs(KERNELS[kernel], with_state), dtype)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("form", "backend"), [("chunked", "reference"), ("recurrent", None), ("chunked", "cpu"), ("auto", None)])
def test_all_forms_are_one_function_in_float64(kernel, form, backend):
    for case in CASES:
        for with_state in (False, True):
            inputs = case.inputs(KERNELS[kernel], with_state)
            found, expected = {}, {}
            for store, attention in (
                (found, Attention(KERNELS[kernel], form, backend)),
                (expected, Attention(KERNELS[kernel], "dense", "reference")),
            ):
                leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
                store["out"] = attention(**leaves)
                store |= dict(zip(leaves, torch.autograd.grad(store["out"].sin().sum(), list(leaves.values())), strict=True))
            for name, truth in expected.items():
                torch.testing.assert_close(found[name], truth, rtol=1e-10, atol=1e-10 * truth.detach().abs().max().item(), msg=name)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("split", [0, 1, 6, 11])
def test_going_on_from_a_state_is_one_long_call(kernel, split):
    inputs = CASES[2].inputs(KERNELS[kernel])
    whole = quadratic_attention_with_state(**inputs, c=KERNELS[kernel])
    first = quadratic_attention_with_state(**{name: one[..., :split, :] for name, one in inputs.items()}, c=KERNELS[kernel])
    rest = {name: one[..., split:, :] for name, one in inputs.items()}
    second = quadratic_attention_with_state(**rest, c=KERNELS[kernel], state=first.state)
    torch.testing.assert_close(torch.cat([first.out, second.out], dim=-2), whole.out)
    torch.testing.assert_close(tuple(second.state), tuple(whole.state))


def test_tokens_one_by_one_are_one_call():
    inputs, state, outs = CASES[2].inputs(BASED), None, []
    for token in range(inputs["q"].shape[-2]):
        out, state = quadratic_attention_step(*(one[..., token, :] for one in inputs.values()), state, BASED)
        outs.append(out)
    torch.testing.assert_close(torch.stack(outs, dim=-2), quadratic_attention(**inputs, c=BASED))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 2, 3, 8, 16])
def test_products_of_features_are_the_kernel(kernel, d):
    c, scale = KERNELS[kernel], 1 / math.sqrt(d)
    g = torch.Generator().manual_seed(d)
    q, k = torch.randn(2, 40, d, generator=g, dtype=torch.float64)
    s = scale * (q * k).sum(-1)
    products = (feature_map(q, c, scale) * feature_map(k, c, scale)).sum(-1)
    torch.testing.assert_close(products, c[0] + c[1] * s + c[2] * s**2, rtol=1e-12, atol=1e-12)
    assert feature_map(q, c, scale).shape[-1] == n_features(d, c)
    assert len({tuple(sorted(pair)) for pair in feature_pairs(d).tolist()}) == d * (d + 1) // 2


def test_the_published_numbers_of_features():
    assert n_features(16, BASED) == 153
    assert n_features(16, REBASED) == 136


def test_squaring_every_coordinate_is_another_kernel():
    """The papers say "element-wise"; what they run is the square of the product, and this is not it."""
    q, k = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])
    assert float(q.square() @ k.square()) != float((q @ k).square())
    torch.testing.assert_close(feature_map(q, REBASED, 1.0) @ feature_map(k, REBASED, 1.0), (q @ k).square())


def test_based_never_ignores_a_token_and_rebased_can():
    """Claims 1 and 2: a kernel of at least 1/2, so a share of at least 1/2 of what 1/2 and the others make."""
    s = torch.linspace(-60, 60, 12001, dtype=torch.float64)
    based = 1 + s + s**2 / 2
    assert based.min() == 0.5
    assert s[based.argmin()] == pytest.approx(-1)
    values = torch.eye(3, dtype=torch.float64)
    q, k = torch.tensor([[1.0], [1.0], [1.0]], dtype=torch.float64), torch.tensor([[-1.0], [5.0], [2.0]], dtype=torch.float64)
    pattern = quadratic_attention(q, k, values, BASED, scale=1.0)
    others = sum(1 + s + s**2 / 2 for s in (5.0, 2.0))
    torch.testing.assert_close(pattern[2, 0], torch.tensor(0.5 / (0.5 + others), dtype=torch.float64))
    at_a_right_angle = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert quadratic_attention(*at_a_right_angle, torch.eye(2), REBASED).tolist() == [[0.0, 0.0], [0.5, 0.5]]
    for others_at, wanted in ((255, 46.9), (2047, 134.7)):
        # 90 percent of the mass, when all others are at the minimum.
        root = -1 + math.sqrt(2 * 0.9 * 0.5 * others_at / 0.1 - 1)
        assert root == pytest.approx(wanted, abs=0.05)


def test_a_pattern_sums_to_one_and_looks_back_only():
    for name, c in KERNELS.items():
        inputs = CASES[2].inputs(c)
        pos = inputs["q"].shape[-2]
        pattern = quadratic_attention(inputs["q"], inputs["k"], torch.eye(pos, dtype=torch.float64).expand(*inputs["q"].shape[:-1], pos), c)
        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
        assert torch.equal(pattern, pattern.tril())
        assert (pattern >= 0).all() or name == "linear"


def test_a_larger_score_everywhere_changes_based_and_not_rebased():
    inputs = CASES[2].inputs(BASED)
    louder = {**inputs, "q": inputs["q"] * 3}
    torch.testing.assert_close(quadratic_attention(**louder, c=REBASED), quadratic_attention(**inputs, c=REBASED))
    assert not torch.allclose(quadratic_attention(**louder, c=BASED), quadratic_attention(**inputs, c=BASED), rtol=0.01)


@pytest.mark.parametrize("form", ["dense", "chunked", "recurrent"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_token_that_weighs_nothing_gets_nothing_and_breaks_nothing(form, dtype):
    q, k, v = (torch.zeros(9, d, dtype=dtype, requires_grad=True) for d in (4, 4, 2))
    out = quadratic_attention(q, k, v + 1, form=form)
    assert out.tolist() == [[0.0, 0.0]] * 9
    for gradient in torch.autograd.grad(out.sum(), (q, k, v)):
        assert torch.isfinite(gradient).all()


def test_half_precision_sums_what_it_cannot_hold():
    q = torch.full((300, 16), 30.0, dtype=torch.float16)
    assert quadratic_attention(q, q, torch.ones(300, 1, dtype=torch.float16)).tolist() == [[1.0]] * 300


def test_gradients_of_gradients():
    inputs = {name: tensor[:1, :3].requires_grad_() for name, tensor in CASES[1].inputs(BASED).items()}
    for c in (BASED, REBASED):
        assert torch.autograd.gradgradcheck(lambda q, k, v, c=c: quadratic_attention(q, k, v, c, form="chunked"), tuple(inputs.values()))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_any_leading_shape(shape):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(*shape, 9, d, generator=g, dtype=torch.float64) for d in (3, 3, 2))
    state = quadratic_attention_with_state(q, k, v).state
    assert state.kv.shape == (*shape, 6, 2)
    found = quadratic_attention_with_state(q, k, v, state=state)
    expected = quadratic_attention_with_state(q, k, v, state=state, form="recurrent")
    torch.testing.assert_close(found.out, expected.out)
    torch.testing.assert_close(tuple(found.state), tuple(expected.state))


@pytest.mark.parametrize("form", ["auto", "dense", "chunked", "recurrent"])
def test_one_token_sees_itself(form):
    v = torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(quadratic_attention(torch.ones(1, 2), torch.ones(1, 2), v, form=form), v)


@pytest.mark.parametrize("form", ["auto", "dense", "chunked", "recurrent"])
def test_no_token_at_all(form):
    out, state = quadratic_attention_with_state(torch.ones(2, 0, 3), torch.ones(2, 0, 3), torch.ones(2, 0, 4), form=form)
    assert out.shape == (2, 0, 4)
    assert state.kv.tolist() == torch.zeros(2, 6, 4).tolist()


@pytest.mark.usefixtures("without_shape_checks")
def test_what_does_not_fit_is_refused():
    q, v = torch.ones(5, 3), torch.ones(5, 2)
    state = AttentionState(torch.zeros(6, 2), torch.zeros(6))
    with pytest.raises(ShapeMismatch, match=r"q and k must have one shape \[..., pos, d\]; got \[5, 3\] and \[4, 3\]"):
        quadratic_attention(q, q[:4], v)
    with pytest.raises(ShapeMismatch, match=r"v must be .* of k \[5, 3\]; got \[4, 2\]"):
        quadratic_attention(q, q, v[:4])
    with pytest.raises(
        ShapeMismatch, match=r"the state must be kv \[10, 2\] and k \[10\] for these values, and coefficients; got \[6, 2\]"
    ):
        quadratic_attention(q, q, v, BASED, state=state)
    with pytest.raises(InvalidArgument, match="the state must be torch.float64, in which sums are made; got torch.float32"):
        quadratic_attention(q.double(), q.double(), v.double(), state=state)
    with pytest.raises(InvalidArgument, match="must be of one floating dtype, and are q torch.float32, k torch.float64"):
        quadratic_attention(q, q.double(), v)
    with pytest.raises(InvalidArgument, match="v must be a torch tensor; got a list"):
        quadratic_attention(q, q, [[1.0]])
    for c in ((1.0, -1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0), (1.0, 1.0, float("nan")), "001"):
        with pytest.raises(InvalidArgument, match="c must be three numbers c0, c1, c2, none below 0 and not all 0; got"):
            quadratic_attention(q, q, v, c)
    with pytest.raises(InvalidArgument, match="scale must be a number above 0; got -1"):
        quadratic_attention(q, q, v, scale=-1.0)
    with pytest.raises(InvalidArgument, match="eps must be a number above 0; got 0"):
        quadratic_attention(q, q, v, eps=0.0)
    with pytest.raises(InvalidArgument, match="form must be one of auto, dense, chunked, recurrent; got 'fast'"):
        quadratic_attention(q, q, v, form="fast")
    with pytest.raises(BackendError, match="backend='gpu' was asked for, but the tensors are on cpu"):
        quadratic_attention(q, q, v, backend="gpu")
