"""Screened by a product in bfloat16, the selection is that of exact pre-activations."""

import pytest
import torch
from harness import compare

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


def encode(x, W_enc, b_enc):
    chunks = [slice(start, min(start + 32, len(x))) for start in range(0, len(x), 32)]
    return screened.encode(x, W_enc, b_enc, K, chunks)


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


@pytest.fixture
def use_matrix_units(monkeypatch):
    monkeypatch.setattr(cpu, "has_matrix_units", lambda: True)
    monkeypatch.setattr(cpu, "_SCREENED_FROM", 1)


@pytest.mark.usefixtures("use_matrix_units")
def test_the_operator_screens_and_its_gradients_are_those_of_the_definition():
    def values_of(module):
        return lambda **encoder: module.topk_encode(**encoder, k=K)[0]

    x, W_enc, b_enc = make_encoder("plain")
    encoder = {"x": x, "W_enc": W_enc, "b_enc": b_enc}
    compare(values_of(cpu), values_of(reference), encoder, torch.float32)

    _, indices = cpu.topk_encode(x, W_enc, b_enc, K)
    assert torch.equal(indices, exact(x, W_enc, b_enc).indices[:, :K])


@pytest.mark.usefixtures("use_matrix_units")
def test_with_nan_the_operator_still_agrees_with_the_definition():
    x, W_enc, b_enc = make_encoder("plain")
    x[3, 5] = float("nan")
    values, indices = cpu.topk_encode(x, W_enc, b_enc, K)
    expected_values, expected_indices = reference.topk_encode(x, W_enc, b_enc, K)
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(values, expected_values, equal_nan=True)
