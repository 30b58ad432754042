"""The Triton kernels against their definitions.

Run by ``tests/kernels/test_gpu_interpreted.py`` in Triton's interpreter, and on a GPU as they are.
"""

import functools

import pytest
import torch
from harness import compare
from kernels.cases import Case

from sae_lens_ext.errors import BackendError
from sae_lens_ext.kernels import (
    hierarchical_loss,
    hierarchical_loss_parts,
    sparse_decode,
    topk_encode,
)
from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.hierarchical_loss import gpu as hierarchical_loss_gpu
from sae_lens_ext.kernels.topk_encode import gpu as topk_encode_gpu

CASES = [
    Case(1, 1, 1, 1),
    Case(3, 5, 7, 7),
    Case(5, 13, 29, 6),
    Case(3, 300, 40, 9),  # more than one piece of a row, more than one block of ranks
    Case(3, 33, 70, 19),
    Case(4, 30, 20, 8, "zeros"),
    Case(4, 30, 20, 8, "duplicates"),
]


def on(device, inputs):
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def both(kernel, **options):
    """The kernel in Triton, and its definition, which float64 runs."""

    def fast(**inputs):
        return kernel(**inputs, backend="gpu", **options)

    return fast, functools.partial(kernel, backend="reference", **options)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sparse_decode(case, dtype, device):
    inputs = {
        name: tensor
        for name, tensor in on(device, case.code()).items()
        if name != "target"
    }
    compare(*both(sparse_decode), inputs, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_hierarchical_loss(case, dtype, device, deterministic, monkeypatch):
    # Two tokens at a time, so that the deterministic mode has several chunks, the last one smaller.
    monkeypatch.setattr(
        hierarchical_loss_gpu, "_SCRATCH_BYTES", 2 * 4 * case.k * case.d_model
    )
    some = (sorted({1, max(1, case.k // 2)}), None), ([case.k], [3.0])
    # The mode changes the gradient of W_dec alone, whatever the levels are.
    for levels, weights in ((None, None), *(() if deterministic else some)):
        fast, plain = both(
            hierarchical_loss,
            levels=levels,
            weights=weights,
            deterministic=deterministic,
        )
        compare(fast, plain, on(device, case.code()), dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_topk_encode(case, dtype, device, monkeypatch):
    # Pieces of 16 columns, two at a time, for three tokens at a time.
    monkeypatch.setattr(topk_encode_gpu, "_COLUMNS", 16)
    monkeypatch.setattr(topk_encode_gpu, "_PIECE_ELEMENTS", 3 * 32)
    inputs = on(device, case.encoder())
    fast, plain = both(topk_encode, k=case.k)
    compare(
        lambda **inputs: fast(**inputs)[0],
        lambda **inputs: plain(**inputs)[0],
        inputs,
        dtype,
    )
    inputs = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    values, indices = fast(**inputs)
    pre = torch.addmm(inputs["b_enc"], inputs["x"] - inputs["centre"], inputs["W_enc"])
    assert torch.equal(pre.gather(1, indices).relu(), values) or dtype != torch.float32
    assert (values.diff(dim=1) <= 0).all()
    assert all(len(set(row)) == case.k for row in indices.tolist())


def test_topk_encode_with_pieces_of_their_real_size(device):
    inputs = {
        name: tensor.float()
        for name, tensor in on(device, Case(2, 3, 9000, 70).encoder()).items()
    }
    found, expected = (
        topk_encode(**inputs, k=70, backend="gpu"),
        topk_encode(**inputs, k=70, backend="reference"),
    )
    torch.testing.assert_close(found, expected)


def test_ties_come_by_feature_and_odd_numbers_as_in_torch(device, monkeypatch):
    monkeypatch.setattr(topk_encode_gpu, "_COLUMNS", 16)
    pre = torch.tensor(
        [
            [0.0, 5.0, -0.0, 5.0, float("inf"), 5.0] + [-1.0] * 30,
            [float("-inf")] * 36,
            [1.0] * 35 + [float("nan")],
        ]
    )
    packed = topk_encode_gpu.largest(pre.to(device), 6, 0)
    values, indices = topk_encode_gpu._unpacked(torch.topk(packed, 6).values)
    torch.testing.assert_close(values.cpu(), torch.topk(pre, 6).values, equal_nan=True)
    assert indices.tolist() == [
        [4, 1, 3, 5, 0, 2],
        [0, 1, 2, 3, 4, 5],
        [35, 0, 1, 2, 3, 4],
    ]


def test_the_parts_are_those_of_the_definition(device):
    inputs = {
        name: t.float() if t.is_floating_point() else t
        for name, t in on(device, CASES[3].code()).items()
    }
    for wanted in (False, True):
        inputs["W_dec"].requires_grad_(wanted)
        found = hierarchical_loss_parts(
            **inputs, levels=[4, 1, 9], weights=[1.0, 0.0, 2.0], backend="gpu"
        )
        expected = hierarchical_loss_parts(
            **inputs, levels=[4, 1, 9], weights=[1.0, 0.0, 2.0], backend="reference"
        )
        torch.testing.assert_close(tuple(found), tuple(expected))


def test_any_leading_shape_and_strides(device):
    inputs = {
        name: t.float() if t.is_floating_point() else t
        for name, t in on(device, Case(12, 20, 30, 5).code()).items()
    }
    odd = {
        "values": inputs["values"].T.contiguous().T.view(3, 4, 5),
        "indices": inputs["indices"].int().view(3, 4, 5),
        "W_dec": inputs["W_dec"].T.contiguous().T,
        "b_dec": inputs["b_dec"].repeat_interleave(2)[::2],
        "target": inputs["target"].view(3, 4, 20),
    }
    torch.testing.assert_close(
        hierarchical_loss(**odd, backend="gpu"),
        hierarchical_loss(**inputs, backend="reference"),
    )
    del odd["target"], inputs["target"]
    out = sparse_decode(**odd, backend="gpu")
    torch.testing.assert_close(
        out.view(12, 20), sparse_decode(**inputs, backend="reference")
    )
    assert sparse_decode(
        odd["values"][:0], odd["indices"][:0], odd["W_dec"], odd["b_dec"], backend="gpu"
    ).shape == (0, 4, 20)


def test_the_gradient_of_an_encoder_stored_by_feature_is_laid_out_like_it(device):
    W_enc = torch.randn(29, 13, device=device).T.requires_grad_()
    values, _ = topk_encode(
        torch.randn(4, 13, device=device),
        W_enc,
        torch.zeros(29, device=device),
        k=3,
        backend="gpu",
    )
    values.sum().backward()
    assert W_enc.grad.stride() == W_enc.stride()


def test_a_feature_that_does_not_exist_gives_nan_and_touches_nothing(device):
    code = {
        name: t.float() if t.is_floating_point() else t
        for name, t in on(device, Case(3, 9, 30, 4).code()).items()
    }
    values, indices, W_dec, b_dec = (
        code[name] for name in ("values", "indices", "W_dec", "b_dec")
    )
    for wrong in (-1, 30, 2**40):
        odd = indices.clone()
        odd[1, 3] = wrong
        # Below the operator, which looks at indices in main memory.
        out = gpu_rows.weighted_row_sum(values, odd, W_dec, b_dec)
        assert out.isnan().any(1).tolist() == [False, True, False]
        torch.testing.assert_close(
            out[[0, 2]],
            sparse_decode(values, indices, W_dec, b_dec, backend="reference")[[0, 2]],
        )
        for deterministic in (False, True):
            task = hierarchical_loss_gpu.Task(
                [4], [1.0], [True] * 4, details=False, deterministic=deterministic
            )
            found = hierarchical_loss_gpu._results(
                values, odd, W_dec, b_dec, code["target"], task
            )
            assert found.loss.isnan()
            assert found.grad_values.isnan().any(1).tolist() == [False, True, False]
            assert found.grad_target.isnan().any(1).tolist() == [False, True, False]


def test_the_deterministic_mode_gives_the_same_bits(device):
    # On a GPU few features, so that many threads meet.
    case = Case(4, 10, 5, 4) if device == "cpu" else Case(4096, 300, 9, 5)
    inputs = {
        name: t.float().requires_grad_() if t.is_floating_point() else t
        for name, t in on(device, case.code()).items()
    }

    def run():
        loss = hierarchical_loss(**inputs, backend="gpu", deterministic=True)
        return torch.autograd.grad(loss, inputs["W_dec"])[0]

    first = run()
    assert all(torch.equal(first, run()) for _ in range(2))


def test_what_torch_was_told_about_determinism_counts(device, monkeypatch):
    modes = []
    monkeypatch.setattr(
        hierarchical_loss_gpu,
        "_in_chunks",
        lambda walk, grad_W, indices: modes.append("deterministic"),
    )
    inputs = {
        name: t.float() if t.is_floating_point() else t
        for name, t in on(device, CASES[1].code()).items()
    }
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


def test_other_numbers_are_refused(device):
    code = on(device, CASES[1].code())
    with pytest.raises(
        BackendError,
        match="the tensors are torch.float64, and it takes float32, bfloat16 and float16",
    ):
        hierarchical_loss(**code, backend="gpu")


def test_on_a_gpu_it_is_what_runs(device):
    if device == "cpu":
        pytest.skip("needs a GPU")
    inputs = {
        name: t.float() if t.is_floating_point() else t
        for name, t in on(device, CASES[3].code()).items()
    }
    found = hierarchical_loss(**inputs)
    assert torch.equal(found, hierarchical_loss(**inputs, backend="gpu"))


def test_programs_are_launched_on_the_device_of_their_tensors(device, monkeypatch):
    entered = []
    original = torch.cuda.device_of
    monkeypatch.setattr(
        torch.cuda,
        "device_of",
        lambda tensor: (entered.append(tensor.device.type), original(tensor))[1],
    )
    code = {
        name: t.float() if t.is_floating_point() else t
        for name, t in on(device, CASES[0].code()).items()
        if name != "target"
    }
    sparse_decode(**code, backend="gpu")
    assert entered == [device]
