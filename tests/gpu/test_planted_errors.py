"""Whether the comparison with the definitions notices when a kernel is wrong."""

import functools
import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch
from harness import compare
from kernels.attention_cases import KERNELS, Attention
from kernels.attention_cases import Case as AttentionCase
from kernels.cases import Case

from sae_lens_ext.kernels import (
    AttentionState,
    hierarchical_loss,
    sparse_decode,
    topk_encode,
)
from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.hierarchical_loss import gpu as hierarchical_loss_gpu
from sae_lens_ext.kernels.quadratic_attention import gpu as attention_gpu
from sae_lens_ext.kernels.quadratic_attention import gpu_programs as attention_programs
from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap
from sae_lens_ext.kernels.sparse_decode import operator as sparse_decode_operator
from sae_lens_ext.kernels.topk_encode import gpu as topk_encode_gpu

CASE = Case(3, 300, 30, 9)  # more than one piece of a row, more than one block of ranks
NUMBERS = itertools.count()


@pytest.fixture
def sabotaged(tmp_path):
    """A module with one piece of its source changed, under another name, and its operators too."""

    def sabotage(module, old, new):
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
        name = f"sabotaged_{next(NUMBERS)}"
        path = tmp_path / f"{name}.py"
        changed = source.replace(old, new).replace('_gpu",', f'_{name}",')
        path.write_text(changed, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        made = importlib.util.module_from_spec(spec)
        sys.modules[name] = made
        spec.loader.exec_module(made)
        return made

    yield sabotage
    for name in [name for name in sys.modules if name.startswith("sabotaged_")]:
        del sys.modules[name]


def refused(fast, plain, inputs):
    with pytest.raises(AssertionError, match="over budget"):
        compare(fast, plain, inputs, torch.float32)


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
        ("b_index < F)\n    b_products", "b_index < F // 2)\n    b_products"),
        ("for right in (False, True)", "for right in (False, False)"),
    ],
)
def test_in_sums_over_rows(sabotaged, device, old, new):
    name = f"sparse_decode_wrong_{next(NUMBERS)}"
    sparse_decode_operator.register(name, sabotaged(gpu_rows, old, new))
    inputs = {
        name: tensor.to(device)
        for name, tensor in CASE.code().items()
        if name != "target"
    }
    refused(
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
        ("b_value * b_suffix, mask=m_sink", "b_suffix, mask=m_sink"),
    ],
)
def test_in_the_walk(sabotaged, device, old, new):
    module = sabotaged(hierarchical_loss_gpu, old, new)
    options = {"levels": [9, 2, 4], "weights": [1.0, 5.0, 2.0]}
    task = hierarchical_loss_gpu.Task(
        [9, 2, 4], [1 / 8, 5 / 8, 2 / 8], [True] * 4, details=False, deterministic=False
    )

    def wrong(**inputs):
        return module.hierarchical_loss(**inputs, task=task).loss

    inputs = {name: tensor.to(device) for name, tensor in CASE.code().items()}
    refused(
        wrong,
        functools.partial(hierarchical_loss, backend="reference", **options),
        inputs,
    )


@pytest.mark.parametrize(
    ("columns", "old", "new"),
    [
        (32, "<= n_equal)", "< n_equal)"),
        (32, "m_taken = m_above | ", "m_taken = "),
        (16, "(FIRST + o_c)", "(o_c)"),
        (16, "[best, found]", "[best, found[:, 1:]]"),
        (16, "sorted=True).values", "sorted=True).values.flip(1)"),
    ],
)
def test_in_the_selection(sabotaged, device, monkeypatch, columns, old, new):
    module = sabotaged(topk_encode_gpu, old, new)
    monkeypatch.setattr(module, "_COLUMNS", columns)
    monkeypatch.setattr(module, "_PIECE_ELEMENTS", columns * CASE.n)

    def wrong(**inputs):
        return module.topk_encode(**inputs, k=CASE.k)[0]

    inputs = {name: tensor.to(device) for name, tensor in CASE.encoder().items()}
    refused(
        wrong,
        lambda **inputs: topk_encode(**inputs, k=CASE.k, backend="reference")[0],
        inputs,
    )


def attention_refused(module, device, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 32)
    monkeypatch.setattr(module, "tiles", lambda d, d_v: attention_gpu.Tiles(16, 16, 16))
    case, c = AttentionCase(1, 1, 33, 2, 1), KERNELS["based"]

    def wrong(q, k, v, state_kv, state_k):
        kernel = FeatureMap(c, 0.5**0.5, 1e-12)
        out, state = module.attend(
            q, k, v, kernel, AttentionState(state_kv, state_k), True, "chunked"
        )
        return torch.cat([one.reshape(-1) for one in (out, *state)])

    inputs = {
        name: tensor.to(device)
        for name, tensor in case.inputs(c, with_state=True).items()
    }
    refused(wrong, Attention(c, "dense", "reference"), inputs)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "o_y[None, :] <= o_t[:, None]\n        b_weights",
            "o_y[None, :] < o_t[:, None]\n        b_weights",
        ),
        (
            "o_y[None, :] <= o_t[:, None]\n        b_grad",
            "o_y[None, :] < o_t[:, None]\n        b_grad",
        ),
        ("b_kv += tl.dot(tl.trans(b_phi)", "b_kv = tl.dot(tl.trans(b_phi)"),
        ("b_normalizer += tl.sum(b_phi", "b_normalizer -= tl.sum(b_phi"),
        ("(C1 + 2 * C2 * b_scores)", "(C1 + C2 * b_scores)"),
        ("2 * W_SQUARE", "W_SQUARE"),
        ("tl.where(i_distance == 0, W_SQUARE, W_PAIR)", "W_PAIR"),
        ("i_distance == -1, b_x * W1", "i_distance == -1, b_x"),
        ("(i_chunk + 1) * CHUNK, T), BT", "(i_chunk + 1) * CHUNK, T) - BT, BT"),
        ("tl.minimum(o_d, o_other)", "o_d"),
        ("b_sum += tl.load(p_slot", "b_sum = tl.load(p_slot"),
        ("SLOTS - 1 - i if REVERSE", "i if REVERSE"),
        ("(0 if REVERSE else 1)", "0"),
        ("ROUNDING * tl.sqrt", "tl.sqrt"),
    ],
)
def test_in_the_programs_of_attention(sabotaged, device, monkeypatch, old, new):
    monkeypatch.setattr(
        attention_gpu, "gpu_programs", sabotaged(attention_programs, old, new)
    )
    attention_refused(attention_gpu, device, monkeypatch)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-(grad_value * out)", "(grad_value * out)"),
        ("first = -1 if is_reverse else 0", "first = 0"),
        ("start[..., -1]", "0"),
        ("after = states if has_after else None", "after = None"),
        ("states.at(0)", "states.at(1)"),
    ],
)
def test_in_the_launches_of_attention(sabotaged, device, monkeypatch, old, new):
    attention_refused(sabotaged(attention_gpu, old, new), device, monkeypatch)
