"""Whether the comparison notices when a program of ``quadratic_attention`` is wrong."""

import pytest
import torch
from kernels.attention_cases import KERNELS, Attention, Case
from kernels.planted import assert_comparison_fails

from sae_lens_ext.kernels import AttentionState
from sae_lens_ext.kernels.quadratic_attention import gpu as attention_gpu
from sae_lens_ext.kernels.quadratic_attention import gpu_programs as attention_programs
from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap


def attention_refused(module, device, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 32)
    monkeypatch.setattr(module, "tiles", lambda d, d_v: attention_gpu.Tiles(16, 16, 16))
    case, c = Case(1, 1, 33, 2, 1), KERNELS["based"]

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
    assert_comparison_fails(wrong, Attention(c, "dense", "reference"), inputs)


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
