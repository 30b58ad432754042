import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import (
    hierarchical_loss,
    measure,
    quadratic_attention,
    sparse_decode,
    tables,
    topk_encode,
    train_step,
)


@pytest.fixture
def small():
    sizes = hierarchical_loss.SIZES["cpu"]._replace(n=16, d_model=32, d_sae=128)
    return hierarchical_loss.inputs(8, sizes, "cpu")


def test_what_agrees_is_accepted(small):
    hierarchical_loss.check(small, 1e-4)


def test_what_differs_is_not_timed(small, monkeypatch):
    original = hierarchical_loss.hierarchical_loss
    wrong = {None: 1.001, "reference": 1.0}
    monkeypatch.setattr(
        hierarchical_loss,
        "hierarchical_loss",
        lambda *a, backend, **k: wrong[backend] * original(*a, backend=backend, **k),
    )
    with pytest.raises(measure.Mismatch, match="not timed"):
        hierarchical_loss.check(small, 1e-4)


def test_nan_is_not_timed():
    with pytest.raises(measure.Mismatch, match="by nan relative; not timed"):
        measure.refuse_mismatch(
            [torch.tensor([1.0, float("nan")])], [torch.tensor([1.0, 2.0])], 1e-4
        )


@pytest.mark.parametrize("module", [hierarchical_loss, sparse_decode, topk_encode])
def test_the_benchmarks_of_kernels_run(module, monkeypatch, capsys):
    monkeypatch.setattr(
        module,
        "SIZES",
        {"cpu": module.SIZES["cpu"]._replace(n=32, d_model=16, d_sae=256)},
    )
    monkeypatch.setattr(module, "KS", (4,))
    # In a process of its own, which would measure the real sizes.
    monkeypatch.setattr(module, "peak_extra_bytes", lambda *_, **__: 1)
    (row,) = module.run()
    assert row["ratio"] > 0
    assert "ours" in capsys.readouterr().out


def test_the_benchmark_of_linear_attention_runs(monkeypatch, capsys):
    monkeypatch.setattr(quadratic_attention, "LENGTHS", {"cpu": (40, 80)})
    monkeypatch.setattr(quadratic_attention, "SOFTMAX_UP_TO", {"cpu": 40})
    monkeypatch.setattr(quadratic_attention, "CHECKED_AT", 300)
    monkeypatch.setattr(
        quadratic_attention,
        "peak_extra_bytes",
        lambda prepare, n, *_, **__: next(call() for call in prepare(2, "cpu")) and n,
    )
    found = quadratic_attention.run()
    assert [row["pos"] for row in found["lengths"]] == [40, 80]
    assert found["lengths"][0]["softmax_step_ratio"] > 0
    assert "softmax_step_ratio" not in found["lengths"][1]
    assert found["decoding_bytes"] == {"1000": 1000, "100000": 100_000}
    assert "time per token" in capsys.readouterr().out


def test_the_benchmark_of_a_training_step_runs(monkeypatch, capsys):
    monkeypatch.setattr(
        train_step,
        "SIZES",
        {"cpu": train_step.SIZES["cpu"]._replace(n=64, d_model=16, d_sae=256)},
    )
    monkeypatch.setattr(train_step, "K", 4)
    found = train_step.run(peers=[Path("no/such/python")])
    assert found["over_product"] > 0
    assert "no/such/python is not there" in capsys.readouterr().out


def test_the_readme_s_tables_are_those_of_the_results():
    text = tables.README.read_text(encoding="utf-8")
    assert text.count("<!-- benchmark: ") == len(tables._TABLES)
    assert tables.updated(text) == text, "run python -m benchmarks tables"
    assert tables.updated(text.replace("ms |", "s |", 1)) == text


def _allocate(n):
    return (lambda: None), (lambda: torch.ones(n).sum())


def test_memory_is_measured_in_bytes():
    assert measure.peak_extra_bytes(_allocate, 50_000_000) == pytest.approx(
        200_000_000, rel=0.1
    )


def test_times_are_compared_within_a_round():
    # The second round ran on a machine ten times as slow.
    times = {"base": [1.0, 10.0, 1.0], "twice": [2.0, 20.0, 2.0]}
    assert measure.typical(times, lambda one: one["twice"] / one["base"]) == 2.0
    assert measure.typical(times, lambda one: one["twice"] - one["base"]) == 1.0


def test_calls_take_turns():
    order = []
    times = measure.side_by_side(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2
    )
    assert order == ["a", "b"] * 3, "one to warm up, then the rounds"
    assert [len(one) for one in times.values()] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gpu"], "this needs a GPU, and torch sees none here"),
        (
            ["sweep", "--device", "cuda"],
            "--device cuda is for the benchmarks of kernels: hierarchical_loss, ",
        ),
        (
            ["train_step", "--peer-python", "no/such"],
            "--peer-python no/such: there is no such program",
        ),
        (
            ["sparse_decode", "--results", "README.md"],
            "--results README.md: File exists",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(arguments, said):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=tables.README.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert said in done.stderr


def test_another_shape_is_not_timed():
    with pytest.raises(
        measure.Mismatch,
        match=r"the fast version has shape \[1\], the definition \[3\]; not timed",
    ):
        measure.refuse_mismatch([torch.ones(1)], [torch.ones(3)], 1e-4)
    measure.refuse_mismatch([torch.zeros(3)], [torch.zeros(3)], 1e-4)
