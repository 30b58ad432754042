"""With a threshold, or without k, ``topk_encode`` keeps only active features."""

import pytest
import torch
from harness import compare
from kernels.cases import CASES
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from benchmarks.measure import peak_extra_bytes
from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.kernels import sparse_decode, topk_encode
from sae_lens_ext.kernels.topk_encode import cpu

both_backends = pytest.mark.parametrize("backend", ["cpu", "reference"])
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# One that is never reached, one that 0 takes the place of, and whole numbers, so that
# pre-activations equal thresholds, and each other.
KINDS = ["numbers", "one number", "never", "negative", "none"]


def whole_numbers(d_sae, dtype):
    """x, W_enc and b_enc whose products are exact; the last tokens are 0."""
    g = torch.Generator().manual_seed(d_sae)
    x = torch.randint(-2, 3, (70, 4), generator=g).to(dtype)
    x[-2:] = 0
    W_enc = torch.randint(-2, 3, (4, d_sae), generator=g).to(dtype)
    return x, W_enc, torch.zeros(d_sae, dtype=dtype)


def make_threshold(kind, d_sae, dtype):
    if kind == "none":
        return None
    if kind == "one number":
        return torch.tensor(6.0, dtype=dtype)
    if kind == "never":
        return torch.full((d_sae,), float("inf"), dtype=dtype)
    if kind == "negative":
        return torch.full((d_sae,), -3.0, dtype=dtype)

    g = torch.Generator().manual_seed(1)
    threshold = torch.randint(-3, 12, (d_sae,), generator=g).to(dtype)
    threshold[::7] = float("nan")
    return threshold


def expected_code(pre, threshold, width):
    """Values and features of every token by Python's own sort.

    A width of None is that of the token with the most active features.
    """
    d_sae = pre.shape[1]
    thresholds = [0.0] * d_sae
    if threshold is not None:
        thresholds = threshold.expand(d_sae).tolist()

    orders = []
    for row in pre.tolist():
        active = [j for j in range(d_sae) if row[j] > thresholds[j] and row[j] > 0]
        active.sort(key=lambda j, row=row: (-row[j], j))
        inactive = sorted(set(range(d_sae)) - set(active))
        code = [(row[j], j) for j in active] + [(0.0, j) for j in inactive]
        orders.append((code, len(active)))

    width = width or max(1, *(n_active for _, n_active in orders))
    codes = [code[:width] for code, _ in orders]
    values = [[value for value, _ in code] for code in codes]
    indices = [[feature for _, feature in code] for code in codes]
    return torch.tensor(values, dtype=pre.dtype), torch.tensor(indices)


# Short and long rows, which are selected from in different ways.
@both_backends
@pytest.mark.parametrize("d_sae", [29, 1500])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_code_is_gated_then_sorted_then_cut(
    kind, dtype, d_sae, backend, monkeypatch
):
    # So that tokens are encoded in more than one chunk.
    monkeypatch.setattr(cpu, "_CHUNK_ELEMENTS", 1)
    x, W_enc, b_enc = whole_numbers(d_sae, dtype)
    threshold = make_threshold(kind, d_sae, dtype)

    ks = [None] if threshold is None else [None, 1, 5, 23]
    for k in ks:
        values, indices = topk_encode(x, W_enc, b_enc, k, backend, threshold=threshold)
        expected = expected_code(x @ W_enc, threshold, k)
        assert torch.equal(values, expected[0])
        assert torch.equal(indices, expected[1])


@both_backends
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_code_at_k_is_a_prefix_of_the_uncapped_code(
    kind, dtype, backend, monkeypatch
):
    monkeypatch.setattr(cpu, "_CHUNK_ELEMENTS", 1)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(150, 8, generator=g).to(dtype)
    W_enc = torch.randn(8, 1100, generator=g).to(dtype)
    # The second chunk is the widest.
    x[:64] /= 2
    encoder = (x, W_enc, torch.zeros(1100, dtype=dtype))
    threshold = make_threshold(kind, 1100, dtype)

    full_values, full_indices = topk_encode(
        *encoder, None, backend, threshold=threshold
    )
    n_active = (full_values > 0).sum(1)
    assert full_values.shape[1] == max(1, n_active.max())
    for k in range(1, full_values.shape[1], 37):
        values, indices = topk_encode(*encoder, k, backend, threshold=threshold)
        assert torch.equal(values, full_values[:, :k])
        is_active = values > 0
        assert torch.equal(indices[is_active], full_indices[:, :k][is_active])
        if threshold is not None:
            assert torch.equal(indices, full_indices[:, :k])


@both_backends
def test_nan_is_active_and_first(backend):
    for d_sae in (3, 1500):
        x = torch.tensor([[1.0], [float("nan")], [0.0]])
        W_enc = torch.zeros(1, d_sae)
        W_enc[0, 1] = 2.0
        values, indices = topk_encode(
            x, W_enc, torch.zeros(d_sae), 2, backend, threshold=torch.tensor(1.0)
        )
        assert values[[0, 2]].tolist() == [[2.0, 0.0], [0.0, 0.0]]
        assert indices.tolist() == [[1, 0], [0, 1], [0, 1]]
        assert values[1].isnan().all()


@both_backends
@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)])
def test_a_batch_of_zero_tokens_has_width_1_without_k(shape, backend):
    _, W_enc, b_enc = whole_numbers(29, torch.float32)
    x = torch.empty(shape)
    values, indices = topk_encode(x, W_enc, b_enc, None, backend)
    assert values.shape == indices.shape == (*shape[:-1], 1)


@both_backends
@pytest.mark.parametrize("k", [4, None])
def test_any_leading_shape_with_a_threshold(k, backend):
    x, W_enc, b_enc = whole_numbers(29, torch.float32)
    encoder = (W_enc, b_enc, k, backend)
    threshold = torch.tensor(2.0)
    flat = topk_encode(x, *encoder, threshold=threshold)
    shaped = topk_encode(x.view(2, 5, 7, 4), *encoder, threshold=threshold)
    for tensor, flat_tensor in zip(shaped, flat, strict=True):
        assert torch.equal(tensor.flatten(0, 2), flat_tensor)

    single_values, _ = topk_encode(x[0], *encoder, threshold=threshold)
    width = single_values.shape[0]
    assert torch.equal(single_values, flat[0][0, :width])


def dense_code(x, W_enc, b_enc, centre, threshold):
    """All activations of a JumpReLU encoder by autograd, sorted."""
    pre = (x - centre) @ W_enc + b_enc
    is_active = (pre > threshold) & (pre > 0)
    return (pre * is_active).sort(dim=1, descending=True, stable=True).values


@pytest.mark.parametrize("k", [3, None])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("case", [CASES[1], CASES[3], CASES[4]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_are_those_of_the_active_features(case, dtype, backend, k):
    g = torch.Generator().manual_seed(0)
    threshold = torch.rand(case.d_sae, generator=g, dtype=torch.float64) * 3

    def coded(x, W_enc, b_enc, centre):
        values, _ = topk_encode(
            x, W_enc, b_enc, k, backend, centre=centre, threshold=threshold.to(x.dtype)
        )
        # To one width: rounding to float32 makes no feature more active here.
        return torch.nn.functional.pad(values, (0, case.d_sae - values.shape[1]))

    def plain(x, W_enc, b_enc, centre):
        code = dense_code(x, W_enc, b_enc, centre, threshold.to(x.dtype))
        rank = torch.arange(case.d_sae)
        return code if k is None else torch.where(rank < k, code, 0)

    compare(coded, plain, case.encoder(), dtype)


@pytest.mark.parametrize("k", [3, None])
def test_second_derivatives_leave_out_features_below_their_threshold(k):
    encoder = CASES[2].encoder()
    threshold = torch.tensor(5.0, dtype=torch.float64)

    penalties = {}
    for name in ("cpu", "reference", "dense"):
        leaves = {key: t.clone().requires_grad_() for key, t in encoder.items()}
        if name == "dense":
            values = dense_code(**leaves, threshold=threshold)
            values = values if k is None else values[:, :k]
        else:
            values, _ = topk_encode(**leaves, k=k, backend=name, threshold=threshold)
        # Chosen for k alone, some would be active.
        assert (values == 0).any()

        inputs = list(leaves.values())
        # Zeros have an upstream gradient too.
        total = (values + 1).pow(3).sum()
        gradients = torch.autograd.grad(total, inputs, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in gradients)
        penalties[name] = torch.autograd.grad(penalty, inputs)

    for name in ("cpu", "reference"):
        torch.testing.assert_close(penalties[name], penalties["dense"])


@both_backends
def test_the_threshold_receives_no_gradient(backend):
    x, W_enc, b_enc = whole_numbers(29, torch.float32)
    W_enc.requires_grad_()
    threshold = torch.ones(29, requires_grad=True)
    values, _ = topk_encode(x, W_enc, b_enc, 3, backend, threshold=threshold)
    values.sum().backward()
    assert threshold.grad is None
    assert W_enc.grad.abs().sum() > 0


# torch warns here about a part of its own.
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)
@pytest.mark.parametrize("k", [3, None])
def test_function_transforms_give_the_same_derivatives(k):
    encoder = CASES[2].encoder()
    threshold = torch.tensor(1.5, dtype=torch.float64)

    def total(x):
        inputs = {**encoder, "x": x}
        values, _ = topk_encode(**inputs, k=k, threshold=threshold)
        return values.square().sum()

    leaf = encoder["x"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(leaf), leaf)
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(torch.func.grad(total)(encoder["x"]), gradient)


def test_fake_tensors_have_a_width_that_depends_on_the_data():
    encoder = CASES[2].encoder()
    del encoder["centre"]
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        fake = {
            name: mode.from_tensor(tensor, static_shapes=True)
            for name, tensor in encoder.items()
        }
        values, indices = topk_encode(**fake, k=None)
        assert values.shape[0] == indices.shape[0] == 17
        assert isinstance(values.shape[1], torch.SymInt)

        W_dec = fake["W_enc"].T
        decoded = sparse_decode(values, indices, W_dec, fake["W_enc"][:, 0])
        assert decoded.shape == (17, 13)

        values, _ = topk_encode(**fake, k=4, threshold=fake["b_enc"])
        assert values.shape == (17, 4)


def test_without_k_the_meta_device_is_rejected():
    encoder = {name: tensor.to("meta") for name, tensor in CASES[2].encoder().items()}
    assert topk_encode(**encoder, k=3, threshold=encoder["b_enc"])[0].shape == (17, 3)
    message = "k must be an integer on the meta device: k=None keeps all active"
    with pytest.raises(InvalidArgument, match=message):
        topk_encode(**encoder, k=None)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("threshold", "error", "message"),
    [
        (
            torch.zeros(28, dtype=torch.float64),
            ShapeMismatch,
            r"threshold must be \[d_sae=29\], as in W_enc \[13, 29\], or a single "
            r"number; got \[28\]",
        ),
        (
            torch.zeros(1, dtype=torch.float64),
            ShapeMismatch,
            r"or a single number; got \[1\]",
        ),
        (
            torch.zeros(29),
            InvalidArgument,
            "must share one floating-point dtype .* threshold torch.float32",
        ),
        (
            torch.zeros(29, dtype=torch.float64, device="meta"),
            InvalidArgument,
            "threshold is on meta, others on cpu: move it",
        ),
        (
            0.5,
            InvalidArgument,
            "threshold must be a torch tensor; got an object of type float",
        ),
    ],
)
def test_rejects_an_invalid_threshold(threshold, error, message):
    with pytest.raises(error, match=message):
        topk_encode(**CASES[2].encoder(), k=3, threshold=threshold)


def encoding():
    """A call to warm up, and one for 2,048 tokens over 32,768 features."""
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(2048, 8, generator=g))
    W_enc = torch.randn(32768, 8, generator=g).T
    encoder = (W_enc, torch.zeros(32768))
    # About 44 features per token are above it.
    threshold = torch.tensor(3.0)

    def encode(x):
        return [topk_encode(x, *encoder, k, threshold=threshold) for k in (32, None)]

    return (lambda: encode(x[:64])), (lambda: encode(x))


def test_memory_is_that_of_a_chunk():
    # All pre-activations would take 268 MB, a chunk of them takes 34 MB.
    assert peak_extra_bytes(encoding) < 100e6
