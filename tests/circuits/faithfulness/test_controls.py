"""Circuits of other nodes."""

import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.circuits.faithfulness.controls import random_draws
from sae_lens_ext.circuits.faithfulness.curve import Draw
from sae_lens_ext.circuits.running.keys import KeySpace

METRIC = sle.circuits.logit_difference(7, 9)
SPACES = {"a": KeySpace(4, 10), "b": KeySpace(4, 10)}


def key(slot, feature):
    return SPACES["a"].key(slot, feature)


def test_random_circuits_have_as_many_nodes_of_every_kind():
    sites = ["a", "b", "a", "a", "b"]
    circuit = Draw(
        sites, [key(1, 3), key(1, -1), key(0, 4), key(2, 3), key(2, -1)], (0,)
    )
    active = {
        "a": torch.tensor(
            [key(slot, feature) for slot in (0, 1, 2, 3) for feature in range(5)]
        ),
        "b": torch.tensor([key(3, -1), key(1, 2)]),
    }
    draws = random_draws(circuit, active, SPACES, 6, seed=0)
    for number, draw in enumerate(draws):
        # There is one error at b, for two of the circuit.
        assert draw.sites == ["a", "b", "a", "a"]
        assert draw.keys[1] == key(3, -1)
        nodes = [SPACES["a"].node(number) for number in draw.keys]
        assert [slot == 0 for slot, _ in nodes] == [False, False, True, False]
        assert [feature == -1 for _, feature in nodes] == [False, True, False, False]
        assert draw.keys[0] != draw.keys[3]
        assert draw.draw == number
    assert len({tuple(draw.keys) for draw in draws}) > 1
    again = random_draws(circuit, active, SPACES, 6, seed=0)
    assert [draw.keys for draw in again] == [draw.keys for draw in draws]


def test_chosen_nodes_beat_random_ones_and_splits_are_tested_on_other_rows():
    model = tiny.hf_model("gpt2")
    clean = tiny.tokens(6, 5)
    corrupted = tiny.tokens(6, 5, seed=1)
    sae = tiny.sae(k=8, hook_name="blocks.2.hook_resid_post")
    arguments = (model, clean, corrupted)
    effects = sle.circuits.effects(model, sae, clean, corrupted, metric=METRIC)
    result = effects.select(8, budget=16).faithfulness(
        *arguments,
        metric=METRIC,
        budgets=[16],
        controls=("random", "splits"),
        other_saes=[tiny.sae(k=8, hook_name="blocks.2.hook_resid_post", seed=5)],
        n_draws=4,
    )
    table = result.table().set_index("nodes")
    assert list(table.index) == ["circuit", "random", "splits", "other_saes[0]"]
    assert table.n_circuits.tolist() == [1, 4, 4, 1]
    assert abs(table.faithfulness["circuit"] - 1) < abs(
        table.faithfulness["random"] - 1
    )
    splits = [item for item in result.measured if item.kind == "splits"]
    assert all(len(item.rows) == 3 for item in splits)
    assert len({item.rows for item in splits}) > 1


def test_a_split_is_the_circuit_of_its_rows():
    model = tiny.hf_model("gpt2")
    clean = tiny.tokens(4, 5)
    sae = tiny.sae(k=8)
    effects = sle.circuits.effects(model, sae, clean, metric=METRIC)
    circuit = effects.select(8, budget=6)
    result = circuit.faithfulness(
        model, clean, metric=METRIC, budgets=[6], controls=["splits"], n_draws=1
    )
    (split,) = [item for item in result.measured if item.kind == "splits"]
    others = sorted({0, 1, 2, 3} - set(split.rows))
    chosen = effects.select(8, budget=6, rows=others)
    by_hand = chosen.faithfulness(
        model, clean, metric=METRIC, budgets=[6], controls=(), rows=split.rows
    )
    table = by_hand.by_prompt()
    assert table.row.tolist() == list(split.rows)
    assert abs(table.metric - split.metric).max() < 1e-5
