"""The comparison with the definitions notices when a Triton program is wrong."""

import functools

import pytest
import torch
from kernels.cases import Case
from kernels.planted import NUMBERS, assert_comparison_fails

from sae_lens_ext.kernels import hierarchical_loss, sparse_decode, topk_encode
from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.hierarchical_loss import gpu as hierarchical_loss_gpu
from sae_lens_ext.kernels.hierarchical_loss.task import Task
from sae_lens_ext.kernels.sparse_decode import operator as sparse_decode_operator
from sae_lens_ext.kernels.topk_encode import gpu as topk_encode_gpu

# More than one piece of a row, and more than one block of ranks.
CASE = Case(3, 300, 30, 9)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "o_k = i_k + tl.arange(0, BK)\n        m_k = o_k < K",
            "o_k = i_k + tl.arange(0, BK)\n        m_k = o_k < K - 1",
        ),
        ("b_sum += tl.load(p_bias", "b_sum -= tl.load(p_bias"),
        ("b_products += b_row", "b_products = b_row"),
        ("b_entry // ENTRIES_PER_ROW", "b_entry // (ENTRIES_PER_ROW + 1)"),
        ("(b_index < F)\n\n    # [BK, BD]", "(b_index < F // 2)\n\n    # [BK, BD]"),
        ("for right in (False, True)", "for right in (False, False)"),
    ],
)
def test_an_error_in_sums_over_rows_is_noticed(sabotaged, device, old, new):
    name = f"sparse_decode_wrong_{next(NUMBERS)}"
    sparse_decode_operator.register(name, sabotaged(gpu_rows, old, new))
    inputs = {
        name: tensor.to(device)
        for name, tensor in CASE.code().items()
        if name != "target"
    }
    assert_comparison_fails(
        functools.partial(sparse_decode_operator.run, name),
        functools.partial(sparse_decode, backend="reference"),
        inputs,
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("b_error -= b_value * b_wide", "b_error -= b_wide"),
        ("tl.maximum(i_k - 1, 0)", "tl.maximum(i_k - 2, 0)"),
        ("b_suffix += tl.load(p_weights + i_k)", "b_suffix += tl.load(p_weights)"),
        ("tl.store(p_dots + i_part + i_k", "tl.store(p_dots + i_part"),
        ("b_loss += tl.load(p_weights + i_k)", "b_loss += tl.load(p_weights)"),
        ("b_grad = b_value * b_suffix", "b_grad = b_suffix"),
    ],
)
def test_an_error_in_the_walk_is_noticed(sabotaged, device, old, new):
    module = sabotaged(hierarchical_loss_gpu, old, new)
    levels = [9, 2, 4]
    task = Task(
        levels,
        [1 / 8, 5 / 8, 2 / 8],
        [True] * 4,
        details=False,
        deterministic=False,
    )

    def wrong(**inputs):
        return module.hierarchical_loss(**inputs, task=task).loss

    plain = functools.partial(
        hierarchical_loss, levels=levels, weights=[1.0, 5.0, 2.0], backend="reference"
    )
    inputs = {name: tensor.to(device) for name, tensor in CASE.code().items()}
    assert_comparison_fails(wrong, plain, inputs)


@pytest.mark.parametrize(
    ("columns", "old", "new"),
    [
        (32, "<= n_equal)", "< n_equal)"),
        (32, "m_taken = m_above | ", "m_taken = "),
        (16, "(FIRST + o_c)", "(o_c)"),
        (16, "[best, candidates]", "[best, candidates[:, 1:]]"),
        (16, "sorted=True).values", "sorted=True).values.flip(1)"),
    ],
)
def test_an_error_in_the_selection_is_noticed(
    sabotaged, device, monkeypatch, columns, old, new
):
    module = sabotaged(topk_encode_gpu, old, new)
    monkeypatch.setattr(module, "_COLUMNS", columns)
    monkeypatch.setattr(module, "_PIECE_ELEMENTS", columns * CASE.n)

    def wrong(**inputs):
        return module.topk_encode(**inputs, k=CASE.k)[0]

    def plain(**inputs):
        return topk_encode(**inputs, k=CASE.k, backend="reference")[0]

    inputs = {name: tensor.to(device) for name, tensor in CASE.encoder().items()}
    assert_comparison_fails(wrong, plain, inputs)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "tl.load(p_floor + o_c, mask=m_c, other=0).to(tl.float32)\n        b",
            "0.0\n        b",
        ),
        ("tl.where(b_pre <= b_floor, 0.0, b_pre)", "b_pre - b_floor"),
        ("else floor[piece]", "else floor[: n_columns]"),
        ("n_active += counts.sum(dim=1)", "n_active = counts.sum(dim=1)"),
        ("int(counts.max())", "int(counts.min())"),
    ],
)
def test_an_error_in_the_gate_is_noticed(sabotaged, device, monkeypatch, old, new):
    module = sabotaged(topk_encode_gpu, old, new)
    monkeypatch.setattr(module, "_COLUMNS", 16)
    monkeypatch.setattr(module, "_PIECE_ELEMENTS", 16 * CASE.n)
    threshold = torch.linspace(0, 40, CASE.d_sae, device=device)

    def coded(encode):
        def run(**inputs):
            thresholds = threshold.to(inputs["x"].dtype)
            values, _ = encode(**inputs, k=None, threshold=thresholds)
            return torch.nn.functional.pad(values, (0, CASE.d_sae - values.shape[1]))

        return run

    plain = functools.partial(topk_encode, backend="reference")
    inputs = {name: tensor.to(device) for name, tensor in CASE.encoder().items()}
    assert_comparison_fails(coded(module.topk_encode), coded(plain), inputs)
