"""Screened by a product in bfloat16, the selection is that of exact pre-activations."""

import pytest
import torch
from harness import compare

from sae_lens_ext.kernels import topk_encode
from sae_lens_ext.kernels.topk_encode import cpu, reference, screened

N, D_MODEL, D_SAE, K = 70, 48, 1100, 5


def make_encoder(kind):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, D_MODEL, generator=g)
    features = torch.randn(D_SAE, D_MODEL, generator=g)
    bias = torch.randn(D_SAE, generator=g)

    if kind == "equal in bfloat16":
        # Which are the largest only shows in digits that the product does not have.
        features = features[:1] * (1 + 2.0**-20 * torch.randn(D_SAE, 1, generator=g))
        bias = torch.zeros(D_SAE)
    if kind == "in pairs":
        features[1::2] = features[::2]
        bias[1::2] = bias[::2]
    if kind == "of many lengths":
        features *= 10 ** torch.linspace(-3, 3, D_SAE).unsqueeze(1)
        x *= 10 ** torch.linspace(-3, 3, N).unsqueeze(1)
    if kind == "of a large coordinate":
        x[:, 3] = 1e4
    if kind == "of a large bias":
        bias *= 1e4
    if kind == "small":
        x *= 1e-30
        features *= 1e-9
        bias = torch.zeros(D_SAE)
    if kind == "zero":
        x[::2] = 0
        bias = bias.round()
    return x, features.T, bias


def exact(x, W_enc, b_enc):
    pre = x.double() @ W_enc.double() + b_enc.double()
    return pre.float().sort(dim=1, descending=True, stable=True)


def encode(x, W_enc, b_enc, most_candidates=D_SAE):
    chunks = [slice(start, min(start + 32, len(x))) for start in range(0, len(x), 32)]
    return screened.encode(x, W_enc, b_enc, K, chunks, most_candidates)


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "equal in bfloat16",
        "in pairs",
        "of many lengths",
        "of a large coordinate",
        "of a large bias",
        "small",
        "zero",
    ],
)
def test_values_and_order_are_those_of_exact_numbers_bit_for_bit(kind):
    encoder = make_encoder(kind)
    values, indices = encode(*encoder)

    expected = exact(*encoder)
    assert torch.equal(indices, expected.indices[:, :K])
    assert torch.equal(values, expected.values[:, :K])


def test_a_token_has_one_code_in_every_batch_and_with_any_number_of_threads():
    x, W_enc, b_enc = make_encoder("plain")
    values, indices = encode(x, W_enc, b_enc)

    n_threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        part_values, part_indices = encode(x[40:57], W_enc, b_enc)
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(part_indices, indices[40:57])
    assert torch.equal(part_values, values[40:57])


@pytest.mark.parametrize("place", ["x", "W_enc", "b_enc"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), 3e38])
def test_numbers_without_a_proven_distance_are_left_to_the_plain_product(place, number):
    x, W_enc, b_enc = make_encoder("plain")
    if place == "x":
        x[7, 7] = number
    if place == "W_enc":
        W_enc[7, 7] = number
    if place == "b_enc":
        b_enc[7] = number
    assert encode(x, W_enc, b_enc) is None


def test_the_mean_of_tokens_does_not_make_more_candidates(monkeypatch):
    counts = []

    def counting(*arguments):
        counts.append(select(*arguments))
        return counts[-1]

    select = screened.candidates.select
    monkeypatch.setattr(screened.candidates, "select", counting)
    x, W_enc, b_enc = make_encoder("plain")
    encode(x, W_enc, b_enc)
    without = sum(counts)
    counts.clear()

    shifted = x + 1000 * torch.randn(
        D_MODEL, generator=torch.Generator().manual_seed(1)
    )
    values, indices = encode(shifted, W_enc, b_enc)
    assert sum(counts) < 1.2 * without
    expected = exact(shifted, W_enc, b_enc)
    assert torch.equal(indices, expected.indices[:, :K])
    assert torch.equal(values, expected.values[:, :K])


def test_too_many_candidates_are_left_to_the_plain_product():
    encoder = make_encoder("equal in bfloat16")
    assert encode(*encoder, most_candidates=D_SAE // 2) is None
    assert encode(*make_encoder("plain"), most_candidates=D_SAE // 2) is not None


@pytest.fixture
def screen_always(monkeypatch):
    monkeypatch.setattr(cpu, "is_fast_in_bfloat16", lambda: True)
    monkeypatch.setattr(cpu, "_SCREENED_FROM", 1)


@pytest.mark.usefixtures("screen_always")
def test_the_operator_screens_and_its_gradients_are_those_of_the_definition():
    def values_of(module, **options):
        return lambda **encoder: module.topk_encode(**encoder, k=K, **options)[0]

    x, W_enc, b_enc = make_encoder("plain")
    encoder = {"x": x, "W_enc": W_enc, "b_enc": b_enc}
    screening = values_of(cpu, screen=True)
    compare(screening, values_of(reference), encoder, torch.float32)

    _, indices = cpu.topk_encode(x, W_enc, b_enc, K, screen=True)
    assert torch.equal(indices, exact(x, W_enc, b_enc).indices[:, :K])


@pytest.mark.usefixtures("screen_always")
def test_with_nan_the_operator_still_agrees_with_the_definition():
    x, W_enc, b_enc = make_encoder("plain")
    x[3, 5] = float("nan")
    values, indices = cpu.topk_encode(x, W_enc, b_enc, K, screen=True)
    expected_values, expected_indices = reference.topk_encode(x, W_enc, b_enc, K)
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(values, expected_values, equal_nan=True)


@pytest.mark.usefixtures("screen_always")
def test_no_code_is_screened_unless_it_is_asked_for(monkeypatch):
    # At two values of k it could be that only one of them is, and then their last
    # digits differ.
    monkeypatch.setattr(screened, "encode", None)
    x, W_enc, b_enc = make_encoder("plain")
    values, indices = topk_encode(x, W_enc, b_enc, 40, backend="cpu")
    for k in (1, K, 23):
        fewer = topk_encode(x, W_enc, b_enc, k, backend="cpu")
        assert torch.equal(fewer[0], values[:, :k])
        assert torch.equal(fewer[1], indices[:, :k])
    with pytest.raises(TypeError):
        topk_encode(x, W_enc, b_enc, K, backend="cpu", screen=True)
