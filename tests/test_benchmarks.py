"""Benchmarks run, time only correct results, and make the tables of the README."""

import sys
from pathlib import Path

import pandas
import pytest
import torch
import toy

from benchmarks import (
    circuit_tracer,
    circuits,
    feature_index,
    hierarchical_loss,
    measure,
    quadratic_attention,
    retrofit,
    sparse_decode,
    tables,
    topk_encode,
    topk_encode_gated,
    train_step,
)
from benchmarks.__main__ import main
from sae_lens_ext import SAE, SAEConfig, SparseCode
from sae_lens_ext.features.state import IndexedBatch, IndexState, Sizes
from sae_lens_ext.training.collecting import Collector
from sae_lens_ext.training.stream.rows import FixedRows


@pytest.fixture
def small():
    sizes = hierarchical_loss.SIZES["cpu"]._replace(n=16, d_model=32, d_sae=128)
    return hierarchical_loss.inputs(8, sizes, "cpu")


def test_a_version_that_agrees_is_timed(small):
    hierarchical_loss.check(small, 1e-4)


def test_a_version_that_differs_is_not_timed(small, monkeypatch):
    original = hierarchical_loss.hierarchical_loss
    factors = {None: 1.001, "reference": 1.0}
    monkeypatch.setattr(
        hierarchical_loss,
        "hierarchical_loss",
        lambda *args, backend, **kwargs: (
            factors[backend] * original(*args, backend=backend, **kwargs)
        ),
    )
    with pytest.raises(measure.Mismatch, match="not timed"):
        hierarchical_loss.check(small, 1e-4)


def test_nan_is_not_timed():
    results = [torch.tensor([1.0, float("nan")])]
    expected = [torch.tensor([1.0, 2.0])]
    with pytest.raises(measure.Mismatch, match="by nan relative; not timed"):
        measure.refuse_mismatch(results, expected, 1e-4)


def test_another_shape_is_not_timed():
    message = r"the fast version has shape \[1\], the definition \[3\]; not timed"
    with pytest.raises(measure.Mismatch, match=message):
        measure.refuse_mismatch([torch.ones(1)], [torch.ones(3)], 1e-4)


def test_zeros_that_are_equal_are_timed():
    measure.refuse_mismatch([torch.zeros(3)], [torch.zeros(3)], 1e-4)


def test_effects_of_a_k_that_differ_are_not_timed():
    nodes = {"row": [0, 0], "site": ["a", "a"], "position": [1, 1], "feature": [-1, 3]}
    at_1 = pandas.DataFrame({**nodes, "effect": [0.5, 1.0]})
    circuits.refuse_differences(at_1.assign(k=1), {1: at_1})

    for column, value in (("effect", 1.001), ("feature", 4), ("effect", float("nan"))):
        other = at_1.copy()
        other.loc[1, column] = value
        with pytest.raises(measure.Mismatch, match="k=1 are not .* not timed"):
            circuits.refuse_differences(at_1.assign(k=1), {1: other})


def test_an_index_that_misses_an_activation_is_not_timed():
    tokens = torch.zeros(1, 3, dtype=torch.int64)
    everywhere = torch.ones(1, 3, dtype=torch.bool)
    values = torch.tensor([[2.0, 1.0], [3.0, 1.0], [4.0, 1.0]])
    indices = torch.tensor([[0, 1], [5, 2], [0, 5]])

    def state_of(values):
        state = IndexState(6, 2, Sizes(1, 1, 1), torch.device("cpu"))
        batch = IndexedBatch(tokens, everywhere, everywhere)
        state.add(SparseCode(values, indices, 6), batch)
        return state

    feature_index.refuse_miscount(state_of(values), n_active=6, n_tokens=3)
    values = values.clone()
    values[1, 1] = 0
    with pytest.raises(measure.Mismatch, match="has 5 activations of 3 tokens"):
        feature_index.refuse_miscount(state_of(values), n_active=6, n_tokens=3)


def test_an_index_that_goes_on_has_the_times_of_before(monkeypatch):
    monkeypatch.setattr(feature_index, "EVERY", 2)
    collector = Collector(toy.Toy(), toy.SITE)
    n_runs = 0

    def bare(rows):
        nonlocal n_runs
        n_runs += 1

    def timed():
        rows = FixedRows(collector.batch(toy.rows(8, 4)), collector, None)
        return feature_index.TimedRows(rows, bare)

    first = timed()
    first.start(0)
    for _ in range(3):
        first.next_rows(2)
    # Two batches, and the first one once more before it is timed.
    assert n_runs == 3
    before = first.times()
    assert before.bare_tokens == 2 * 2 * 4

    second = timed()
    second.restore(first.state())
    assert second.n_rows == 6
    assert second.next_rows(2) is not None
    assert second.next_rows(2) is None
    after = second.times()
    assert after.bare_tokens == before.bare_tokens + 2 * 4
    assert after.index_s > before.index_s
    assert after.peak >= before.peak > 0


@pytest.mark.parametrize("module", [hierarchical_loss, sparse_decode, topk_encode])
def test_the_benchmarks_of_kernels_run(module, monkeypatch, capsys):
    small = module.SIZES["cpu"]._replace(n=32, d_model=16, d_sae=256)
    monkeypatch.setattr(module, "SIZES", {"cpu": small})
    monkeypatch.setattr(module, "KS", (4,))
    # It runs in a process of its own, which would measure the real sizes.
    monkeypatch.setattr(module, "peak_extra_bytes", lambda *_, **__: 1)

    (row,) = module.run()
    assert row["ratio"] > 0
    assert "ours" in capsys.readouterr().out


def test_the_benchmark_of_thresholds_runs(monkeypatch, capsys):
    small = topk_encode_gated.SIZES["cpu"]._replace(n=32, d_model=16, d_sae=2048)
    monkeypatch.setattr(topk_encode_gated, "SIZES", {"cpu": small})
    monkeypatch.setattr(topk_encode_gated, "peak_extra_bytes", lambda *_, **__: 1)

    rows = topk_encode_gated.run()
    for row, n_active in zip(rows, topk_encode_gated.ACTIVE, strict=True):
        assert row["active"] == pytest.approx(n_active, rel=0.2)
        assert row["gated_speed"] > 0
    assert "uncapped" in capsys.readouterr().out


def test_the_benchmark_of_linear_attention_runs(monkeypatch, capsys):
    def decode_two_tokens(prepare, n, *_, **__):
        for call in prepare(2, "cpu"):
            call()
        return n

    monkeypatch.setattr(quadratic_attention, "LENGTHS", {"cpu": (40, 80)})
    monkeypatch.setattr(quadratic_attention, "SOFTMAX_UP_TO", {"cpu": 40})
    monkeypatch.setattr(quadratic_attention, "CHECKED_AT", 300)
    monkeypatch.setattr(quadratic_attention, "peak_extra_bytes", decode_two_tokens)

    numbers = quadratic_attention.run()
    short, long = numbers["lengths"]
    assert [short["pos"], long["pos"]] == [40, 80]
    assert short["softmax_step_ratio"] > 0
    assert "softmax_step_ratio" not in long
    assert numbers["decoding_bytes"] == {"1000": 1000, "100000": 100_000}
    assert "time per token" in capsys.readouterr().out


def test_the_benchmark_of_a_training_step_runs(monkeypatch, capsys):
    small = train_step.SIZES["cpu"]._replace(n=64, d_model=16, d_sae=256)
    monkeypatch.setattr(train_step, "SIZES", {"cpu": small})
    monkeypatch.setattr(train_step, "K", 4)

    numbers = train_step.run(peers=[Path("no/such/python")])
    assert numbers["over_product"] > 0
    assert "no/such/python is not there" in capsys.readouterr().out


def test_pursuit_takes_the_largest_parts_of_orthogonal_directions(monkeypatch):
    monkeypatch.setattr(retrofit, "KS", (1, 3, 4))
    sae = SAE(SAEConfig(d_model=6, d_sae=6, k=2))
    with torch.no_grad():
        # Of any norm, which pursuit solves for.
        sae.W_dec.copy_(torch.eye(6) * torch.arange(1, 7))
        sae.b_dec.copy_(torch.arange(6.0))
    parts = torch.rand(40, 6)

    fvus = retrofit.pursuit_fvu(sae, parts + sae.b_dec)
    rest = parts.sort(dim=1, descending=True).values.square()
    variance = (parts - parts.mean(0)).square().sum()
    for k, fvu in fvus.items():
        assert fvu == pytest.approx((rest[:, k:].sum() / variance).item(), abs=1e-5)


@pytest.fixture
def transcoder():
    config = SAEConfig(
        d_model=6,
        d_sae=40,
        d_out=6,
        k=8,
        hook_name="blocks.9.mlp.hook_in",
        hook_name_out="blocks.9.hook_mlp_out",
    )
    return SAE(config, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def records():
    """A text and a prompt."""
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    x = torch.randn(2, 5, 6)
    text = circuit_tracer.Recorded(tokens, x, x + torch.randn(2, 5, 6))
    return text, circuit_tracer.Recorded(tokens[:1], x[1:], text.y[1:])


def answer(transcoder, records, k):
    """What circuit-tracer would compute, with its features of zeros at the end."""
    text, _ = records
    wide = torch.nn.functional.pad(transcoder.encode(text.x, k).dense(), (0, 8))
    recons = transcoder(text.x, k)
    in_model = wide.clone()
    in_model[:, 0] = 0
    positions, features = in_model[1].nonzero(as_tuple=True)
    layers = torch.full_like(features, circuit_tracer.LAYER)
    return {
        f"acts_{k}": wide,
        f"recons_{k}": recons,
        f"model_acts_{k}": in_model,
        f"model_errors_{k}": text.y - recons,
        f"graph_features_{k}": torch.stack([layers, positions, features], dim=1),
        f"graph_acts_{k}": in_model[1][positions, features],
    }


@torch.no_grad()
def test_what_circuit_tracer_computes_alike_is_accepted(transcoder, records):
    row = circuit_tracer.compared(
        transcoder, 3, *records, answer(transcoder, records, 3)
    )
    assert row["active"] == int(transcoder.encode(records[0].x, 3).l0().sum())
    assert set(row["differences"].values()) == {0.0}


def set_last_feature(tensor):
    tensor[..., -1] = 1.0


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("acts_3", lambda tensor: tensor.mul_(1.001), "alone, k=3: .* by 1.0e-03"),
        ("acts_3", set_last_feature, "alone: 10 features are active in one library"),
        ("model_acts_3", lambda tensor: tensor.mul_(1.001), "in the model, k=3: "),
        ("graph_acts_3", lambda tensor: tensor.mul_(1.001), "in the graph, k=3: "),
        ("graph_features_3", lambda tensor: tensor.sub_(1), "a layer without a trans"),
        ("recons_3", lambda tensor: tensor.fill_(torch.nan), "differs by nan"),
        ("model_errors_3", lambda tensor: tensor.add_(0.01), "errors, k=3: "),
    ],
)
@torch.no_grad()
def test_what_circuit_tracer_computes_otherwise_is_refused(
    transcoder, records, name, spoil, message
):
    theirs = answer(transcoder, records, 3)
    spoil(theirs[name])
    with pytest.raises(measure.Mismatch, match=message):
        circuit_tracer.compared(transcoder, 3, *records, theirs)


def test_the_tables_of_readme_and_docs_are_those_of_the_results():
    pages = {page: page.read_text(encoding="utf-8") for page in tables.PAGES}
    n_tables = sum(text.count("<!-- benchmark: ") for text in pages.values())
    assert n_tables == len(tables._TABLES)
    for page, text in pages.items():
        assert tables.updated(text) == text, f"{page}: run python -m benchmarks tables"
    readme = pages[tables.PAGES[0]]
    assert tables.updated(readme.replace("ms |", "s |", 1)) == readme


def _allocate(n):
    return (lambda: None), (lambda: torch.ones(n).sum())


def test_memory_is_measured_in_bytes():
    n_bytes = measure.peak_extra_bytes(_allocate, 50_000_000)
    assert n_bytes == pytest.approx(200_000_000, rel=0.1)


def test_times_are_compared_within_a_round():
    # The second round ran on a machine ten times as slow.
    times = {"base": [1.0, 10.0, 1.0], "twice": [2.0, 20.0, 2.0]}
    assert measure.ratio(times, "twice", "base") == 2.0
    assert measure.typical(times, lambda row: row["twice"] / row["base"]) == 2.0
    assert measure.typical(times, lambda row: row["twice"] - row["base"]) == 1.0


def test_calls_take_turns():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = measure.side_by_side(calls, rounds=2)
    assert order == ["a", "b"] * 3, "one round to warm up, then the measured ones"
    assert [len(of_call) for of_call in times.values()] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_rejects_impossible_measurements_before_anything_is_measured(
    arguments, message, monkeypatch, capsys
):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tables.PAGES[0].parent)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err
