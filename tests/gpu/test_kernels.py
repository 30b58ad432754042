"""The Triton kernels agree with their definitions.

``tests/kernels/test_gpu_interpreted.py`` runs this file in Triton's interpreter; on a
GPU it runs as it is.
"""

import functools

import pytest
import torch
from harness import compare
from kernels.cases import Case, cast, exact_pre_activations

from sae_lens_ext.errors import BackendError
from sae_lens_ext.kernels import (
    hierarchical_loss,
    hierarchical_loss_parts,
    sparse_decode,
    topk_encode,
)
from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.hierarchical_loss import gpu as hierarchical_loss_gpu
from sae_lens_ext.kernels.hierarchical_loss.task import Task
from sae_lens_ext.kernels.topk_encode import gpu as topk_encode_gpu

CASES = [
    Case(1, 1, 1, 1),
    Case(3, 5, 7, 7),
    Case(5, 13, 29, 6),
    # More than one piece of a row, and more than one block of ranks.
    Case(3, 300, 40, 9),
    Case(3, 33, 70, 19),
    Case(4, 30, 20, 8, "zeros"),
    Case(4, 30, 20, 8, "duplicates"),
]


def on(device, inputs):
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def float_code(case, device):
    """values, indices, W_dec, b_dec and target, in float32."""
    return on(device, cast(case.code(), torch.float32))


def without_target(code):
    return {name: tensor for name, tensor in code.items() if name != "target"}


def fast_and_plain(kernel, **options):
    """The kernel in Triton, and its definition, which float64 runs too."""
    return (
        functools.partial(kernel, backend="gpu", **options),
        functools.partial(kernel, backend="reference", **options),
    )


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of 16 columns, two at a time, for three tokens at a time."""
    monkeypatch.setattr(topk_encode_gpu, "_COLUMNS", 16)
    monkeypatch.setattr(topk_encode_gpu, "_PIECE_ELEMENTS", 3 * 32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sparse_decode_agrees_with_its_definition(case, dtype, device):
    inputs = on(device, without_target(case.code()))
    compare(*fast_and_plain(sparse_decode), inputs, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_hierarchical_loss_agrees_with_its_definition(
    case, dtype, device, deterministic, monkeypatch
):
    # Two tokens at a time, so that the deterministic mode has more than one chunk, the
    # last one smaller.
    scratch_bytes = 2 * 4 * case.k * case.d_model
    monkeypatch.setattr(hierarchical_loss_gpu, "_SCRATCH_BYTES", scratch_bytes)

    choices = [(None, None)]
    # The mode changes the gradient of W_dec alone, whatever the levels are.
    if not deterministic:
        choices.append((sorted({1, max(1, case.k // 2)}), None))
        choices.append(([case.k], [3.0]))

    for levels, weights in choices:
        fast, plain = fast_and_plain(
            hierarchical_loss,
            levels=levels,
            weights=weights,
            deterministic=deterministic,
        )
        compare(fast, plain, on(device, case.code()), dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("small_pieces")
def test_topk_encode_agrees_with_its_definition(case, dtype, device):
    inputs = on(device, case.encoder())
    fast, plain = fast_and_plain(topk_encode, k=case.k)
    compare(
        lambda **inputs: fast(**inputs)[0],
        lambda **inputs: plain(**inputs)[0],
        inputs,
        dtype,
    )

    values, indices = fast(**cast(inputs, dtype))
    assert (values.diff(dim=1) <= 0).all()
    assert all(len(set(row)) == case.k for row in indices.tolist())


def assert_selects_by_value_then_feature(case, dtype, device):
    # Products are exact, so that the bits are the same in whatever pieces they are
    # made.
    inputs = case.exact_encoder(dtype)
    values, indices = topk_encode(**on(device, inputs), k=case.k, backend="gpu")

    pre = exact_pre_activations(**inputs)
    largest = pre.sort(dim=1, descending=True, stable=True)
    assert torch.equal(indices.cpu(), largest.indices[:, : case.k])
    assert torch.equal(values.cpu().double(), largest.values[:, : case.k].relu())


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("small_pieces")
def test_topk_encode_selects_by_value_then_feature(case, dtype, device):
    assert_selects_by_value_then_feature(case, dtype, device)


def assert_gates_then_selects(case, k, dtype, device):
    # As above, with thresholds that some pre-activations equal.
    inputs = case.exact_encoder(dtype)
    pre = exact_pre_activations(**inputs)
    g = torch.Generator().manual_seed(0)
    chosen = torch.randint(case.n, (1, case.d_sae), generator=g)
    threshold = pre.gather(0, chosen)[0]
    threshold[::5] = -float("inf")
    threshold[1::11] = float("nan")

    values, indices = topk_encode(
        **on(device, inputs),
        k=k,
        backend="gpu",
        threshold=threshold.to(device, dtype),
    )
    is_active = (pre > threshold) & (pre > 0)
    gated = torch.where(is_active, pre, 0)
    width = max(1, is_active.sum(1).max()) if k is None else k
    expected = gated.sort(dim=1, descending=True, stable=True)
    assert values.shape == (case.n, width)
    assert torch.equal(values.cpu().double(), expected.values[:, :width])
    assert torch.equal(indices.cpu(), expected.indices[:, :width])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("small_pieces")
def test_topk_encode_gates_then_selects(case, dtype, device):
    for k in (case.k, None):
        assert_gates_then_selects(case, k, dtype, device)


@pytest.mark.parametrize("k", [70, None])
def test_topk_encode_gates_pieces_of_their_real_size(device, k):
    assert_gates_then_selects(Case(2, 3, 9000, 70), k, torch.float32, device)


@pytest.mark.parametrize("k", [3, None])
@pytest.mark.usefixtures("small_pieces")
def test_topk_encode_with_a_threshold_agrees_with_its_definition(k, dtype, device):
    inputs = on(device, Case(5, 13, 70, 3).encoder())
    threshold = torch.linspace(-1, 3, 70, dtype=torch.float64, device=device)

    def values_of(backend):
        def encode(**inputs):
            cast_threshold = threshold.to(inputs["x"].dtype)
            values, _ = topk_encode(
                **inputs, k=k, backend=backend, threshold=cast_threshold
            )
            # Rounding can make one feature more active.
            return torch.nn.functional.pad(values, (0, 70 - values.shape[1]))

        return encode

    compare(values_of("gpu"), values_of("reference"), inputs, dtype)


def test_topk_encode_without_k_and_threshold_keeps_positive_features(device):
    inputs = on(device, cast(Case(5, 13, 70, 3).encoder(), torch.float32))
    values, indices = topk_encode(**inputs, k=None, backend="gpu")
    expected = topk_encode(**inputs, k=None, backend="reference")
    torch.testing.assert_close((values, indices), expected)

    inputs["x"] = inputs["x"][:0]
    values, indices = topk_encode(**inputs, k=None, backend="gpu")
    assert values.shape == indices.shape == (0, 1)


def test_a_floor_lets_nan_through(device, monkeypatch):
    monkeypatch.setattr(topk_encode_gpu, "_COLUMNS", 16)
    pre = torch.full((1, 36), 2.0, device=device)
    pre[0, 20] = float("nan")
    floor = torch.full((36,), 2.0, device=device)
    floor[7] = 1.0
    counts = topk_encode_gpu.count_active(pre, floor)
    assert counts.tolist() == [[1, 1, 0]]

    packed = topk_encode_gpu.largest(pre, 2, 0, floor)
    values, indices = topk_encode_gpu._unpacked(torch.topk(packed, 3).values)
    assert values[0, 0].isnan()
    assert values[0, 1:].tolist() == [2.0, 0.0]
    assert indices.tolist() == [[20, 7, 0]]


def test_topk_encode_selects_from_pieces_of_their_real_size(device):
    assert_selects_by_value_then_feature(Case(2, 3, 9000, 70), torch.float32, device)


def test_topk_encode_with_pieces_of_their_real_size_agrees(device):
    inputs = on(device, cast(Case(2, 3, 9000, 70).encoder(), torch.float32))
    fast, plain = fast_and_plain(topk_encode, k=70)
    torch.testing.assert_close(fast(**inputs), plain(**inputs))


def test_ties_come_by_feature_and_special_numbers_as_in_a_stable_sort(
    device, monkeypatch
):
    monkeypatch.setattr(topk_encode_gpu, "_COLUMNS", 16)
    pre = torch.tensor(
        [
            [0.0, 5.0, -0.0, 5.0, float("inf"), 5.0] + [-1.0] * 30,
            [float("-inf")] * 36,
            [1.0] * 35 + [float("nan")],
            [-0.0, 0.0, -1.0, 0.0, -0.0, 0.0] + [-1.0] * 30,
            [float("inf"), -float("nan")] * 18,
        ]
    )
    packed = topk_encode_gpu.largest(pre.to(device), 6, 0)
    values, indices = topk_encode_gpu._unpacked(torch.topk(packed, 6).values)

    expected = pre.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(values.cpu(), expected.values[:, :6], equal_nan=True)
    assert torch.equal(indices.cpu(), expected.indices[:, :6])
    assert indices.tolist() == [
        [4, 1, 3, 5, 0, 2],
        [0, 1, 2, 3, 4, 5],
        [35, 0, 1, 2, 3, 4],
        [0, 1, 3, 4, 5, 2],
        [1, 3, 5, 7, 9, 11],
    ]


@pytest.mark.parametrize("with_gradients", [False, True])
def test_the_parts_are_those_of_the_definition(device, with_gradients):
    inputs = float_code(CASES[3], device)
    inputs["W_dec"].requires_grad_(with_gradients)
    fast, plain = fast_and_plain(
        hierarchical_loss_parts, levels=[4, 1, 9], weights=[1.0, 0.0, 2.0]
    )
    torch.testing.assert_close(tuple(fast(**inputs)), tuple(plain(**inputs)))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_the_loss_of_half_precision_is_in_float32(device, half):
    inputs = CASES[3].code()
    inputs["target"] = inputs["target"] * 400
    inputs = on(device, cast(inputs, half))
    exact_inputs = cast(inputs, torch.float64)
    exact = hierarchical_loss(**exact_inputs, backend="reference").item()
    assert exact > torch.finfo(torch.float16).max

    inputs["b_dec"].requires_grad_()
    loss = hierarchical_loss(**inputs, backend="gpu")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-5)
    loss.backward()
    assert inputs["b_dec"].grad.dtype == half
    assert inputs["b_dec"].grad.isfinite().all()


def test_any_leading_shape_and_strides(device):
    inputs = float_code(Case(12, 20, 30, 5), device)
    reshaped = {
        "values": inputs["values"].T.contiguous().T.view(3, 4, 5),
        "indices": inputs["indices"].int().view(3, 4, 5),
        "W_dec": inputs["W_dec"].T.contiguous().T,
        "b_dec": inputs["b_dec"].repeat_interleave(2)[::2],
        "target": inputs["target"].view(3, 4, 20),
    }
    torch.testing.assert_close(
        hierarchical_loss(**reshaped, backend="gpu"),
        hierarchical_loss(**inputs, backend="reference"),
    )

    decoder = without_target(reshaped)
    out = sparse_decode(**decoder, backend="gpu")
    expected = sparse_decode(**without_target(inputs), backend="reference")
    torch.testing.assert_close(out.view(12, 20), expected)

    empty = {
        **decoder,
        "values": decoder["values"][:0],
        "indices": decoder["indices"][:0],
    }
    assert sparse_decode(**empty, backend="gpu").shape == (0, 4, 20)


def test_the_gradient_of_an_encoder_stored_by_feature_has_its_layout(device):
    W_enc = torch.randn(29, 13, device=device).T.requires_grad_()
    x = torch.randn(4, 13, device=device)
    b_enc = torch.zeros(29, device=device)
    values, _ = topk_encode(x, W_enc, b_enc, k=3, backend="gpu")
    values.sum().backward()
    assert W_enc.grad.stride() == W_enc.stride()


@pytest.mark.parametrize("feature", [-1, 30, 2**40])
def test_a_feature_that_does_not_exist_gives_nan_and_touches_nothing_else(
    device, feature
):
    code = float_code(Case(3, 9, 30, 4), device)
    expected = sparse_decode(**without_target(code), backend="reference")
    indices = code["indices"].clone()
    indices[1, 3] = feature

    # Below the operator, which checks indices in main memory.
    out = gpu_rows.weighted_row_sum(
        code["values"], indices, code["W_dec"], code["b_dec"]
    )
    assert out.isnan().any(1).tolist() == [False, True, False]
    torch.testing.assert_close(out[[0, 2]], expected[[0, 2]])

    for deterministic in (False, True):
        task = Task([4], [1.0], [True] * 4, details=False, deterministic=deterministic)
        results = hierarchical_loss_gpu._results(
            **{**code, "indices": indices}, task=task
        )
        assert results.loss.isnan()
        assert results.grad_values.isnan().any(1).tolist() == [False, True, False]
        assert results.grad_target.isnan().any(1).tolist() == [False, True, False]


def test_the_deterministic_mode_gives_the_same_bits(device):
    # On a GPU few features, so that many threads meet.
    case = Case(4, 10, 5, 4) if device == "cpu" else Case(4096, 300, 9, 5)
    inputs = on(device, case.code())
    inputs = cast(inputs, torch.float32, requires_grad=True)

    def gradient():
        loss = hierarchical_loss(**inputs, backend="gpu", deterministic=True)
        return torch.autograd.grad(loss, inputs["W_dec"])[0]

    first = gradient()
    assert all(torch.equal(first, gradient()) for _ in range(2))


def test_the_mode_follows_torch_unless_it_is_passed(device, monkeypatch):
    modes = []
    monkeypatch.setattr(
        hierarchical_loss_gpu,
        "_in_chunks",
        lambda walk, grad_W, indices: modes.append("deterministic"),
    )
    inputs = float_code(CASES[1], device)
    inputs["W_dec"].requires_grad_()

    torch.use_deterministic_algorithms(True)
    try:
        hierarchical_loss(**inputs, backend="gpu")
        assert modes == ["deterministic"]
        hierarchical_loss(**inputs, backend="gpu", deterministic=False)
    finally:
        torch.use_deterministic_algorithms(False)
    hierarchical_loss(**inputs, backend="gpu")
    assert modes == ["deterministic"]


def test_rejects_float64(device):
    message = (
        "the tensors are torch.float64, and it takes float32, bfloat16 and float16"
    )
    with pytest.raises(BackendError, match=message):
        hierarchical_loss(**on(device, CASES[1].code()), backend="gpu")


def test_a_gpu_is_the_default_where_the_tensors_are_on_one(device):
    if device == "cpu":
        pytest.skip("needs a GPU")
    inputs = float_code(CASES[3], device)
    by_default = hierarchical_loss(**inputs)
    assert torch.equal(by_default, hierarchical_loss(**inputs, backend="gpu"))


def test_programs_are_launched_on_the_device_of_their_tensors(device, monkeypatch):
    devices = []
    device_of = torch.cuda.device_of

    def recording(tensor):
        devices.append(tensor.device.type)
        return device_of(tensor)

    monkeypatch.setattr(torch.cuda, "device_of", recording)
    sparse_decode(**without_target(float_code(CASES[0], device)), backend="gpu")
    assert devices == [device]
