"""The benchmark of behaviours: its pairs, its splits, and a run on a tiny model."""

import json

import tiny

from benchmarks import behaviour_tables, behaviours
from benchmarks.behaviour_pairs import Behaviour, agreement, pronouns
from benchmarks.unfinished import Parts
from sae_lens_ext.circuits import methods


def test_pairs_differ_in_one_word_that_decides_the_next():
    for make in (agreement, pronouns):
        behaviour = make(60)
        assert behaviour == make(60)
        assert behaviour != make(60, seed=1)
        texts = [text for pair in behaviour.pairs for text in pair]
        assert len({len(text.split()) for text in texts}) == 1
        for pair in behaviour.pairs:
            clean, corrupted = (text.split() for text in pair)
            assert sum(map(str.__ne__, clean, corrupted)) == 1
        assert sorted(behaviour.yes) == sorted(behaviour.no)
        assert all(map(str.__ne__, behaviour.yes, behaviour.no))


def test_no_pair_judges_a_circuit_that_it_chose():
    chosen, judged = zip(*behaviours.splits(), strict=True)
    assert sorted(row for part in chosen for row in part) == list(
        range(behaviours.N_PAIRS)
    )
    assert len({row for part in judged for row in part}) == sum(map(len, judged))
    assert all(set(part).isdisjoint(other) for part, other in behaviours.splits())


def test_the_benchmark_measures_every_cell_of_its_tables(
    gemma2, monkeypatch, capsys, tmp_path
):
    small = {
        "KS": (4, 8),
        "N_PAIRS": 9,
        "N_JUDGES": 2,
        "SHARE": 0.1,
        "METHOD_K": 8,
        "STEPS": 1,
        "MASK_STEPS": 2,
        "NEURONS": ["blocks.0.mlp.hook_post"],
    }
    monkeypatch.setitem(behaviours.METHODS["integrated gradients"], "steps", 1)
    monkeypatch.setitem(methods.STEPS, "joint", 1)
    for name, value in small.items():
        monkeypatch.setattr(behaviours, name, value)
    pairs = [
        (f"w{number} w{number + 20} w3 w5", f"w{number + 10} w{number + 20} w3 w5")
        for number in range(9)
    ]
    behaviour = Behaviour("toy", pairs, ["w7"] * 9, ["w8"] * 9)
    saes = [tiny.sae(k=8), tiny.sae(k=8, hook_name="blocks.2.hook_resid_post", seed=1)]

    parts = Parts(tmp_path / "toy")
    results = {"toy": behaviours.Measurements(gemma2, saes, behaviour, parts).run()}
    assert "CPU seconds" in capsys.readouterr().out
    # What is there is not measured again.
    again = behaviours.Measurements(None, saes, behaviour, parts).run()
    assert json.dumps({"toy": again}) == json.dumps(results)

    tables = list(behaviour_tables.tables(results))
    assert len(tables) == 6
    for _, header, rows in tables:
        assert rows
        assert all(len(row) == len(header) for row in rows)
    _, header, rows = tables[0]
    assert all(rows[0][header.index(kind)] for kind in ("neurons", "random nodes"))
    # Three splits, each with the circuit at either k and at every budget of controls.
    rows = results["toy"]["circuits"]
    circuits = [row for row in rows if row["nodes"] == "circuit" and "kind" not in row]
    assert len(circuits) == 3 * (2 + len(set(results["toy"]["budgets"].values())))
