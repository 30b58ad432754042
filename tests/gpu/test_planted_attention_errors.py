"""The comparison with the definition notices errors in the GPU's attention."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from kernels.attention_cases import FEATURE_MAPS, Attention, Case
from kernels.planted import NUMBERS, assert_comparison_fails

from sae_lens_ext.kernels import AttentionState, quadratic_attention
from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap

PACKAGE = "sae_lens_ext.kernels.quadratic_attention"
FOLDER = Path(sys.modules[quadratic_attention.__module__].__file__).parent


@pytest.fixture
def load_changed(tmp_path, monkeypatch):
    """Load a copy of all of the GPU's modules with ``old`` replaced by ``new``.

    The copies import each other, and their operators have another name. ``old`` must
    occur exactly once in all of them.
    """
    monkeypatch.syspath_prepend(tmp_path)
    name = f"sabotaged_{next(NUMBERS)}"

    def load(old, new):
        copies = tmp_path / name
        copies.mkdir()
        (copies / "__init__.py").touch()
        n_occurrences = 0
        for path in FOLDER.glob("gpu*.py"):
            source = path.read_text(encoding="utf-8")
            n_occurrences += source.count(old)
            changed = source.replace(old, new)
            changed = changed.replace(f"{PACKAGE}.gpu", f"{name}.gpu")
            changed = changed.replace('"quadratic_attention_', f'"{name}_')
            (copies / path.name).write_text(changed, encoding="utf-8")
        assert n_occurrences == 1, f"{old!r} is there {n_occurrences} times"
        return importlib.import_module(f"{name}.gpu")

    yield load

    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # In the programs.
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
        ("range(i_start, i_end, BT)", "range(i_start, i_end - BT, BT)"),
        ("tl.minimum(o_d, o_other)", "o_d"),
        ("b_sum += tl.load(p_slot", "b_sum = tl.load(p_slot"),
        ("SLOTS - 1 - i if REVERSE", "i if REVERSE"),
        ("(0 if REVERSE else 1)", "0"),
        ("ROUNDING * b_phi_norm", "b_phi_norm"),
        # In what launches them.
        ("-(grad_value * out)", "(grad_value * out)"),
        ("first = -1 if is_reverse else 0", "first = 0"),
        ("start[..., -1]", "0"),
        ("after = grad_states if has_after else None", "after = None"),
        ("states.at(0)", "states.at(1)"),
    ],
)
def test_comparison_fails_on_planted_error(load_changed, device, monkeypatch, old, new):
    module = load_changed(old, new)
    layout = importlib.import_module(f"{module.__package__}.gpu_layout")
    monkeypatch.setattr(module, "_CHUNK", 32)
    monkeypatch.setattr(layout, "tiles", lambda d, d_v: layout.Tiles(16, 16, 16))
    c = FEATURE_MAPS["based"]

    def attend(q, k, v, state_kv, state_k):
        feature_map = FeatureMap(c, 0.5**0.5, 1e-12)
        state = AttentionState(state_kv, state_k)
        out, state = module.attend(q, k, v, feature_map, state, True, "chunked")
        return torch.cat([tensor.reshape(-1) for tensor in (out, *state)])

    inputs = {
        name: tensor.to(device)
        for name, tensor in Case(1, 1, 33, 2, 1).inputs(c, with_state=True).items()
    }
    assert_comparison_fails(attend, Attention(c, "dense", "reference"), inputs)
