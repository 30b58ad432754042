"""Recall as a task: sequences as published, training that learns, grids that go on from where they stopped."""

import concurrent.futures
import itertools
import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.based import FEATURE_MAPS, BasedForCausalLM
from sae_lens_ext.experiments.recall import grid as mqar_grid
from sae_lens_ext.experiments.recall import task as mqar
from sae_lens_ext.experiments.recall.grid import (
    grid,
    model_folder,
    read_table,
    run_grid,
)
from sae_lens_ext.experiments.recall.results import at_best_lr, differences, summary
from sae_lens_ext.experiments.recall.task import (
    ATTENTION,
    MQAR,
    UNLABELLED,
    Outcome,
    Recipe,
    accuracy,
    model_for,
    train_mqar,
    trained_on,
)

TINY = MQAR(seq_len=8, pairs=2, vocab_size=10)
QUICK = Recipe(
    d_model=8,
    heads=2,
    feature_dim=2,
    steps=4,
    batch_size=4,
    train_examples=None,
    test_examples=6,
    evaluations=2,
)


# Sequences


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("random_non_queries", [False, True])
@pytest.mark.parametrize(
    ("seq_len", "pairs", "vocab_size"),
    [(4, 1, 4), (12, 3, 9), (64, 4, 8192), (64, 16, 34), (200, 32, 401)],
)
def test_a_sequence_names_its_pairs_and_asks_for_each_once(
    seq_len, pairs, vocab_size, random_non_queries
):
    tokens, labels = MQAR(
        seq_len, pairs, vocab_size, random_non_queries=random_non_queries
    ).sample(200, rng())
    context, tail = 2 * pairs, tokens[:, 2 * pairs :]
    assert tokens.shape == labels.shape == (200, seq_len)
    for row, asked in zip(tokens.tolist(), labels.tolist(), strict=True):
        keys, values = row[:context:2], row[1:context:2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert all(1 <= key < vocab_size // 2 for key in keys)
        assert all(vocab_size // 2 <= value < vocab_size for value in values)
        places = [place for place, label in enumerate(asked) if label != UNLABELLED]
        assert sorted(row[place] for place in places) == sorted(keys), (
            "each key is asked for once"
        )
        assert all(place >= context and place % 2 == 0 for place in places)
        assert [asked[place] for place in places] == [
            dict(zip(keys, values, strict=True))[row[place]] for place in places
        ]
    fillers = tail[labels[:, context:] == UNLABELLED]
    assert (fillers != 0).any() == (random_non_queries and fillers.numel() > 0)
    assert 0 <= int(fillers.min()) <= int(fillers.max()) < vocab_size


def test_fillers_are_any_tokens():
    tokens, labels = MQAR(40, 2, 42, random_non_queries=True).sample(500, rng())
    assert set(tokens[:, 4:][labels[:, 4:] == UNLABELLED].tolist()) == set(range(42))


@pytest.mark.parametrize("pairs", [1, 5, 16])
def test_with_four_tokens_for_each_pair_every_slot_is_taken(pairs):
    _, labels = MQAR(4 * pairs, pairs, 100).sample(50, rng())
    assert (labels[:, 2 * pairs :: 2] != UNLABELLED).all()


@pytest.mark.parametrize(
    "pairs", [2, 4]
)  # few of many are drawn until they differ; many of few are shuffled
def test_every_order_of_keys_and_of_values_is_as_likely(pairs):
    task = MQAR(16, pairs, 17)  # keys 1 to 7, values 8 to 16
    tokens, _ = task.sample(60_000, rng())
    for first, last, column in ((1, 7, 0), (8, 16, 1)):
        orders = list(itertools.permutations(range(first, last + 1), 2))
        drawn = [tuple(pair) for pair in tokens[:, [column, column + 2]].tolist()]
        counts = pd.Series(drawn).value_counts().reindex(orders, fill_value=0)
        assert deviation(counts.to_numpy(), np.full(len(orders), 1 / len(orders))) < 5


def test_many_of_many_are_drawn_in_little_memory():
    script = """
import resource, numpy as np
from sae_lens_ext.experiments.recall.task import MQAR
task = MQAR(seq_len=256, pairs=64, vocab_size=8192)
task.sample(10, np.random.default_rng(0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
task.sample(5000, np.random.default_rng(0))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert int(grown) * 1024 < 160e6, (
        "5,000 rows of 4,095 numbers and their order are 328 MB"
    )


def deviation(counts, probabilities):
    """How far counts are from what is expected, in standard deviations of chi-square."""
    expected = counts.sum() * probabilities
    degrees = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(
        2 * degrees
    )


def drawn_one_after_the_other(slots, power_a):
    """Of two draws without replacement, with probabilities in proportion to slot^(a - 1): how likely is each ordered pair."""
    p = np.arange(1, slots + 1) ** (power_a - 1)
    p = p / p.sum()
    return {
        (i, j): p[i] * p[j] / (1 - p[i])
        for i, j in itertools.permutations(range(slots), 2)
    }


def slots_of(task, n, generator):
    """Which slots the first and the second key are asked for in."""
    tokens, labels = task.sample(n, generator)
    tail = tokens[:, 2 * task.pairs :: 2]
    is_asked = labels[:, 2 * task.pairs :: 2] != UNLABELLED
    return [
        ((tail == tokens[:, [column]]) & is_asked).int().argmax(1) for column in (0, 2)
    ]


@pytest.mark.parametrize("power_a", [0.01, 0.5, 2.0])
def test_slots_are_drawn_one_after_the_other_and_early_ones_more_often(power_a):
    """The j-th draw is the j-th key's, so keys that are named early tend to be asked for early."""
    task = MQAR(16, 2, 64, power_a=power_a)
    wanted = drawn_one_after_the_other(6, power_a)
    counts = pd.Series(
        list(
            zip(
                *(found.tolist() for found in slots_of(task, 60_000, rng())),
                strict=True,
            )
        )
    ).value_counts()
    counts, probabilities = (
        counts.reindex(list(wanted), fill_value=0).to_numpy(),
        np.array(list(wanted.values())),
    )
    assert deviation(counts, probabilities) < 5
    assert (
        deviation(
            counts, np.array(list(drawn_one_after_the_other(6, power_a + 0.1).values()))
        )
        > 10
    ), "another power is seen"


def test_numpy_draws_slots_so_too():
    """The published generator leaves it to ``choice``, whose draws have the same probabilities."""
    wanted, old = drawn_one_after_the_other(6, 0.01), np.random.RandomState(0)
    p = np.arange(1, 7) ** (0.01 - 1)
    drawn = [
        tuple(old.choice(6, size=2, replace=False, p=p / p.sum()))
        for _ in range(20_000)
    ]
    counts = pd.Series(drawn).value_counts().reindex(list(wanted), fill_value=0)
    assert deviation(counts.to_numpy(), np.array(list(wanted.values()))) < 5


def test_a_generator_gives_the_same_sequences_again_and_others_next():
    one, other = rng(), rng()
    first, again, then = (
        TINY.sample(20, one)[0],
        TINY.sample(20, other)[0],
        TINY.sample(20, one)[0],
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, then)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"seq_len": 9},
            "seq_len must be even and at least 4 for each of the pairs; got seq_len=9, pairs=2",
        ),
        ({"pairs": 3}, "got seq_len=8, pairs=3"),
        ({"pairs": 0}, "pairs must be a whole number from 1 on; got 0"),
        ({"vocab_size": 0}, "vocab_size must be a whole number from 1 on; got 0"),
        (
            {"vocab_size": 5},
            "vocab_size must be at least 6, for 2 keys, as many values and the filler; got 5",
        ),
        ({"power_a": float("nan")}, "power_a must be a finite number; got nan"),
        (
            {"random_non_queries": "no"},
            "random_non_queries must be True or False; got 'no'",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_a_task_that_cannot_be_laid_out_is_refused(changes, said):
    with pytest.raises(sle.InvalidArgument, match=said):
        replace(TINY, **changes)


# Training


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"kernel": "softmax"},
            "kernel must be one of based, rebased, .*, attention; got 'softmax'",
        ),
        ({"steps": 0}, "steps must be a whole number from 1 on; got 0"),
        (
            {"heads": 9},
            "d_model=8 leaves no value for each of 9 heads; give fewer heads",
        ),
        ({"lr": 0.0}, "lr must be a number above 0; got 0.0"),
        ({"init_std": float("inf")}, "init_std must be a number above 0; got inf"),
        ({"weight_decay": -0.1}, "weight_decay must be a number from 0 on; got -0.1"),
        ({"fewest_pairs": 0}, "fewest_pairs must be a whole number from 1 on; got 0"),
        ({"seed": -1}, "seed must be a whole number from 0 on; got -1"),
        ({"seed": 1 << 63}, "seed must be below 2\\*\\*63; got 9223372036854775808"),
        (
            {"learned_positions": "no"},
            "learned_positions must be True or False; got 'no'",
        ),
        ({"lr": "0.1"}, "lr must be a number above 0; got '0.1'"),
        ({"lr": True}, "lr must be a number above 0; got True"),
        (
            {"train_examples": 3},
            "train_examples=3 are fewer than one batch of batch_size=4; give more, or none at all",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_what_is_no_recipe_is_refused(changes, said):
    with pytest.raises(sle.InvalidArgument, match=said):
        replace(QUICK, **changes)


@pytest.mark.usefixtures("without_shape_checks")
def test_numbers_of_every_kind_make_the_same_recipe(tmp_path):
    one = Recipe(lr=1.0, seed=3, d_model=16, learned_positions=False)
    other = Recipe(
        lr=np.float32(1),
        seed=np.int64(3),
        d_model=torch.tensor(16),
        learned_positions=np.False_,
    )
    assert (one, MQAR(power_a=1.0)) == (other, MQAR(power_a=1))
    assert model_folder(tmp_path, one, MQAR(power_a=1.0)) == model_folder(
        tmp_path, other, MQAR(power_a=1)
    )


def test_random_numbers_elsewhere_stay_what_they_were():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    model_for(QUICK, TINY)
    train_mqar(QUICK, TINY)
    assert torch.equal(torch.rand(3), wanted)


def test_a_run_that_diverges_ends_and_says_so(monkeypatch):
    logits, calls = mqar._labelled_logits, []

    def not_finite_in_the_third_step(*given):
        found, wanted = logits(*given)
        calls.append(len(calls))
        return (found * float("nan") if len(calls) >= 3 else found), wanted

    monkeypatch.setattr(mqar, "_labelled_logits", not_finite_in_the_third_step)
    monkeypatch.setattr(mqar, "accuracy", lambda *_: 0.5)
    told = []
    _, outcome = train_mqar(
        replace(QUICK, steps=6, evaluations=3),
        TINY,
        on_test=lambda *found: told.append(found),
    )
    assert told == [(2, 0.5), (4, 0.0)]
    assert outcome == Outcome(0.5, 0.0, -1, outcome.seconds, diverged=True)


def test_the_defaults_are_the_published_model_and_task():
    sizes = {
        kernel: sum(
            one.numel() for one in model_for(Recipe(kernel), MQAR()).parameters()
        )
        for kernel in ("based", "rebased")
    }
    assert sizes == {"based": 577_984, "rebased": 577_984 + 768}


@pytest.mark.parametrize("kernel", [*FEATURE_MAPS, ATTENTION])
def test_every_kernel_trains_and_the_seed_decides(kernel):
    recipe, told = replace(QUICK, kernel=kernel, lr=0.1), []
    model, outcome = train_mqar(recipe, TINY, on_test=lambda *found: told.append(found))
    again, same = train_mqar(recipe, TINY)
    other, _ = train_mqar(replace(recipe, seed=43), TINY)
    weights, same_weights, other_weights = (
        torch.cat([one.flatten() for one in m.parameters()])
        for m in (model, again, other)
    )
    assert torch.equal(weights, same_weights)
    assert not torch.equal(weights, other_weights)
    assert not torch.equal(
        weights,
        torch.cat([one.flatten() for one in model_for(recipe, TINY).parameters()]),
    )
    assert (outcome.accuracy, outcome.last_accuracy, outcome.solved_at) == (
        same.accuracy,
        same.last_accuracy,
        same.solved_at,
    )
    assert [step for step, _ in told] == [2, 4]
    assert outcome.accuracy == max(share for _, share in told)
    assert outcome.last_accuracy == told[-1][1]
    assert outcome.seconds > 0
    assert not model.training


def test_attention_is_softmax_of_one_head_after_the_same_convolution():
    model = model_for(replace(QUICK, kernel=ATTENTION), TINY)
    assert model.config.layer_types == ["conv", "full_attention"]
    assert model.model.layers[1].mixer.heads == 1


def test_weights_start_as_wide_as_asked():
    stds = [
        model_for(Recipe(d_model=64, init_std=std), MQAR())
        .model.embed_tokens.weight.std()
        .item()
        for std in (0.02, 0.3)
    ]
    assert stds == pytest.approx([0.02, 0.3], rel=0.02)


@pytest.mark.parametrize(
    ("found", "stopped_after", "solved_at"),
    [([0.2, 0.995, 1.0], 4, 4), ([0.5, 0.9, 0.99], 6, 4), ([0.1, 0.8, 0.3], 6, -1)],
)
def test_it_stops_above_99_percent_and_says_when_it_reached_90(
    monkeypatch, found, stopped_after, solved_at
):
    shares, told = iter(found), []
    monkeypatch.setattr(mqar, "accuracy", lambda *_: next(shares))
    _, outcome = train_mqar(
        replace(QUICK, steps=6, evaluations=3),
        TINY,
        on_test=lambda step, _: told.append(step),
    )
    assert told[-1] == stopped_after
    assert outcome.solved_at == solved_at
    assert outcome.accuracy == max(found[: len(told)])
    assert outcome.last_accuracy == found[len(told) - 1]


def test_there_are_no_more_tests_than_asked_for_and_one_is_at_the_end():
    told = []
    train_mqar(
        replace(QUICK, steps=7, evaluations=4),
        TINY,
        on_test=lambda step, _: told.append(step),
    )
    assert told == [2, 4, 6, 7]


def test_a_fixed_set_is_seen_whole_in_every_epoch_in_an_order_of_the_seed():
    def epochs(seed):
        recipe = replace(QUICK, seed=seed, train_examples=11, batch_size=5, steps=4)
        batches = [tokens for tokens, _ in mqar._batches(recipe, MQAR(16, 4, 100))]
        return [torch.cat(batches[start : start + 2]) for start in (0, 2)]

    for one in epochs(1):
        assert len(one.unique(dim=0)) == len(one) == 10, (
            "two batches of 11, none twice; the eleventh waits for another epoch"
        )
    everything = [set(map(tuple, torch.cat(epochs(seed)).tolist())) for seed in (1, 2)]
    assert len(set.union(*everything)) == 11, "the seed does not change the set"
    assert not torch.equal(epochs(1)[0], epochs(1)[1])
    assert not torch.equal(epochs(1)[0], epochs(2)[0])


@pytest.mark.parametrize("train_examples", [None, 64])
@pytest.mark.parametrize("seed", [42, 52])
def test_nothing_is_trained_on_that_is_tested_on(monkeypatch, train_examples, seed):
    task, tested, train = (
        MQAR(16, 4, 64),
        [],
        replace(
            QUICK,
            seed=seed,
            batch_size=64,
            test_examples=64,
            train_examples=train_examples,
        ),
    )
    monkeypatch.setattr(
        mqar, "accuracy", lambda _, tokens, __: tested.append(tokens) or 0.0
    )
    trained = {
        tuple(row)
        for tokens, _ in mqar._batches(train, task)
        for row in tokens.tolist()
    }
    train_mqar(train, task)
    assert len(tested[0]) == 64
    assert torch.equal(tested[0], tested[1])
    assert not trained & set(map(tuple, tested[0].tolist()))


@pytest.mark.parametrize(
    ("fewest", "pairs"), [(None, [8]), (8, [8]), (2, [2, 4, 8]), (3, [3, 6, 8])]
)
@pytest.mark.parametrize("train_examples", [None, 12])
def test_fewer_pairs_are_trained_on_too_each_batch_of_one_number(
    fewest, pairs, train_examples
):
    recipe, task = (
        replace(
            QUICK,
            fewest_pairs=fewest,
            steps=300,
            batch_size=4,
            train_examples=train_examples,
        ),
        MQAR(32, 8, 64),
    )
    assert trained_on(recipe, task) == [replace(task, pairs=n) for n in pairs]
    seen = []
    for tokens, labels in mqar._batches(recipe, task):
        assert tokens.shape == (4, 32)
        (asked,) = {int(row) for row in (labels != UNLABELLED).sum(1)}
        seen.append(asked)
    assert len(seen) == 300
    assert sorted(set(seen)) == pairs
    assert all(seen.count(n) > 300 / len(pairs) / 2 for n in pairs)


def test_more_pairs_than_the_task_has_are_refused_before_training(trained, tmp_path):
    recipe = replace(QUICK, fewest_pairs=3)
    with pytest.raises(
        sle.InvalidArgument, match="fewest_pairs=3 are more than the task's pairs=2"
    ):
        run_grid(TINY, [QUICK, recipe], tmp_path / "mqar.csv", progress=False)
    assert not trained


@pytest.mark.parametrize("train_examples", [None, 12])
def test_shorter_sequences_are_trained_on_and_the_task_is_tested(
    monkeypatch, train_examples
):
    recipe = replace(
        QUICK,
        fewest_pairs=1,
        train_seq_len=16,
        learned_positions=False,
        steps=20,
        train_examples=train_examples,
    )
    task, tested = MQAR(40, 4, 64, power_a=1.0), []
    assert trained_on(recipe, task) == [MQAR(16, n, 64, power_a=1.0) for n in (1, 2, 4)]
    assert {tokens.shape for tokens, _ in mqar._batches(recipe, task)} == {(4, 16)}
    monkeypatch.setattr(
        mqar,
        "accuracy",
        lambda _, tokens, labels: (
            tested.append((tokens.shape, int((labels[0] != UNLABELLED).sum()))) or 0.0
        ),
    )
    train_mqar(recipe, task)
    assert tested == [((6, 40), 4)] * 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"train_seq_len": 6},
            "train_seq_len=6 is not the task's seq_len=8, .*; give learned_positions=False",
        ),
        (
            {"train_seq_len": 6, "learned_positions": False},
            "train_seq_len=6 cannot be trained on: seq_len must be even and at least 4 ",
        ),
    ],
)
def test_lengths_that_cannot_be_trained_on_are_refused_before_training(
    trained, tmp_path, changes, said
):
    with pytest.raises(sle.InvalidArgument, match=said):
        run_grid(
            TINY,
            [QUICK, replace(QUICK, **changes)],
            tmp_path / "mqar.csv",
            progress=False,
        )
    assert not trained


def test_a_model_without_learned_positions_has_none():
    assert (
        model_for(replace(QUICK, learned_positions=False), TINY).model.embed_positions
        is None
    )
    assert model_for(QUICK, TINY).model.embed_positions.num_embeddings == TINY.seq_len


class Oracle(torch.nn.Module):
    """Says of every third token what its label is, and of the others something else."""

    def __init__(self, tokens, labels, vocab_size):
        super().__init__()
        self.answers, self.vocab_size, self.lm_head = (
            dict(zip(map(tuple, tokens.tolist()), labels, strict=True)),
            vocab_size,
            lambda x: x,
        )

    def model(self, tokens, use_cache):
        labels = torch.stack(
            [self.answers[tuple(row)] for row in tokens.tolist()]
        ).clamp_min(0)
        wrong = torch.arange(tokens.shape[1]) % 3 > 0
        labels[:, wrong] = (labels[:, wrong] + 1) % self.vocab_size
        return type(
            "Found",
            (),
            {
                "last_hidden_state": torch.nn.functional.one_hot(
                    labels, self.vocab_size
                ).float()
            },
        )


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("batch_size", [3, None])
def test_accuracy_is_the_share_of_questions_answered_over_all_batches(batch_size):
    tokens, labels = MQAR(16, 4, 40).sample(7, rng())
    oracle = Oracle(tokens, labels, 40).train()
    asked = labels != UNLABELLED
    wanted = float(asked[:, ::3].sum() / asked.sum())
    assert 0 < wanted < 1
    assert accuracy(oracle, tokens, labels, batch_size) == pytest.approx(wanted)
    assert oracle.training
    with pytest.raises(KeyError):
        accuracy(oracle, tokens + 1, labels)
    assert oracle.training, "after a failure too"


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on; got 0"),
        (
            {"labels": torch.zeros(7, 15)},
            r"tokens and labels must both be \[n, pos\]; got \(7, 16\) and \(7, 15\)",
        ),
        (
            {"labels": torch.full((7, 16), UNLABELLED)},
            "there is nothing to answer: every label is -100",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(changes, said):
    tokens, labels = MQAR(16, 4, 40).sample(7, rng())
    with pytest.raises(sle.InvalidArgument, match=said):
        accuracy(
            **{
                "model": Oracle(tokens, labels, 40),
                "tokens": tokens,
                "labels": labels,
                **changes,
            }
        )


@pytest.mark.usefixtures("without_shape_checks")
def test_longer_sequences_are_asked_fewer_at_a_time():
    tokens, labels = MQAR(30_000, 4, 40).sample(3, rng())
    oracle, lengths = Oracle(tokens, labels, 40), []
    answer = oracle.model
    oracle.model = lambda some, use_cache: (
        lengths.append(len(some)) or answer(some, use_cache)
    )
    accuracy(oracle, tokens, labels)
    assert lengths == [2, 1], "at most 65,536 tokens"


def test_an_untrained_model_guesses():
    task = MQAR(64, 8, 128)
    tokens, labels = task.sample(400, rng())
    for kernel in ("based", "rebased", ATTENTION):
        model = model_for(
            Recipe(kernel, d_model=32, heads=4, feature_dim=8, init_std=0.1), task
        )
        assert accuracy(model, tokens, labels) < 0.04, (
            "one of 64 values, or of 128 tokens"
        )


# Grids


@pytest.fixture
def trained(monkeypatch):
    """The recipes that were really trained, in this process instead of others."""
    asked, train = [], mqar_grid.train_mqar

    def watched(recipe, task, *, device):
        asked.append(recipe)
        return train(recipe, task, device=device)

    monkeypatch.setattr(mqar_grid, "train_mqar", watched)
    monkeypatch.setattr(mqar_grid, "_pool", concurrent.futures.ThreadPoolExecutor)
    return asked


def small_grid(seeds=(1, 2)):
    return grid(QUICK, ["based", "rebased"], [0.1 + 0.2, 1e-3], seeds)


def test_a_grid_is_every_kernel_at_every_learning_rate_seed_by_seed():
    found = small_grid()
    assert [(one.seed, one.kernel, one.lr) for one in found] == list(
        itertools.product((1, 2), ("based", "rebased"), (0.1 + 0.2, 1e-3))
    )
    assert {replace(one, kernel="rebased", lr=1.0, seed=0) for one in found} == {
        replace(QUICK, lr=1.0, seed=0)
    }


@pytest.mark.parametrize("to", [{"table": "file/runs/mqar.csv"}, {"models": "file"}])
def test_what_cannot_be_written_to_is_found_out_before_training(
    trained, tmp_path, monkeypatch, to
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run_grid(TINY, small_grid(), **{"table": "mqar.csv", **to}, progress=False)
    assert not trained


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("jobs", [0, 1.5])
def test_jobs_are_whole_and_at_least_one(trained, tmp_path, jobs):
    with pytest.raises(
        sle.InvalidArgument, match=f"jobs must be a whole number from 1 on; got {jobs}"
    ):
        run_grid(TINY, small_grid(), tmp_path / "mqar.csv", jobs=jobs)


def test_what_is_in_the_table_is_not_trained_again(trained, tmp_path):
    table = tmp_path / "new" / "mqar.csv"
    first = run_grid(TINY, small_grid(seeds=(1,)), table, progress=False)
    assert trained == small_grid(seeds=(1,))
    whole = run_grid(TINY, small_grid() + small_grid(), table, progress=False)
    assert trained[4:] == small_grid()[4:], "one seed more, and each recipe once"
    pd.testing.assert_frame_equal(whole[:4], first)
    pd.testing.assert_frame_equal(read_table(table), whole)
    part = run_grid(TINY, small_grid(seeds=(2,))[:1], table, progress=False)
    assert part["seed"].tolist() == [2], (
        "of all in the table, the lines that were asked for"
    )
    assert len(trained) == 8
    run_grid(
        replace(TINY, random_non_queries=True),
        small_grid(seeds=(1,)),
        table,
        progress=False,
    )
    run_grid(
        TINY,
        [replace(one, train_examples=8) for one in small_grid(seeds=(1,))],
        table,
        progress=False,
    )
    assert len(trained) == 16, (
        "another task, and another set to train on, are other recipes"
    )
    run_grid(
        replace(TINY, random_non_queries=True),
        small_grid(seeds=(1,)),
        table,
        progress=False,
    )
    run_grid(
        TINY,
        [replace(one, train_examples=8) for one in small_grid(seeds=(1,))],
        table,
        progress=False,
    )
    assert len(trained) == 16
    assert len(read_table(table)) == 16


def test_the_table_holds_what_training_gives(trained, tmp_path):
    found = run_grid(
        TINY, small_grid(seeds=(3,)), tmp_path / "mqar.csv", progress=False
    )
    for recipe, line in zip(small_grid(seeds=(3,)), found.itertuples(), strict=True):
        outcome = train_mqar(recipe, TINY)[1]
        assert (line.kernel, line.lr, line.seed) == (recipe.kernel, recipe.lr, 3)
        assert (line.accuracy, line.last_accuracy, line.solved_at) == (
            outcome.accuracy,
            outcome.last_accuracy,
            outcome.solved_at,
        )


def test_an_interrupted_grid_keeps_what_is_done_begins_no_more_and_goes_on(
    trained, tmp_path, monkeypatch
):
    table, train = tmp_path / "mqar.csv", mqar_grid.train_mqar

    begun = []

    def fails_on_the_third(recipe, task, *, device):
        begun.append(recipe)
        if len(begun) == 3:
            raise KeyboardInterrupt
        # What is begun meanwhile, on this thread, lasts long enough for the rest to be called off.
        time.sleep(len(begun) // 4)
        return train(recipe, task, device=device)

    monkeypatch.setattr(mqar_grid, "train_mqar", fails_on_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_grid(TINY, small_grid(), table, progress=False)
    assert len(begun) <= 4
    assert read_table(table)["kernel"].tolist() == ["based", "based"]
    monkeypatch.setattr(mqar_grid, "train_mqar", train)
    trained.clear()
    assert len(run_grid(TINY, small_grid(), table, progress=False)) == 8
    assert trained == small_grid()[2:]


def test_a_table_is_replaced_whole_or_not_at_all(trained, tmp_path, monkeypatch):
    table = tmp_path / "mqar.csv"
    run_grid(TINY, small_grid()[:1], table, progress=False)
    before = table.read_bytes()

    def half(self, path, **_):
        path.write_text("kernel,d_mod")
        raise OSError("no space left")

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises(OSError, match="no space left"):
        run_grid(TINY, small_grid()[:2], table, progress=False)
    assert table.read_bytes() == before
    assert list(tmp_path.iterdir()) == [table]


def test_lines_that_another_command_adds_meanwhile_stay(trained, tmp_path, monkeypatch):
    table, train = tmp_path / "mqar.csv", mqar_grid.train_mqar

    def with_a_neighbour(recipe, task, *, device):
        if not trained:
            mqar_grid._add(
                table,
                replace(recipe, kernel="square"),
                task,
                Outcome(0.5, 0.5, -1, 1.0),
            )
        return train(recipe, task, device=device)

    monkeypatch.setattr(mqar_grid, "train_mqar", with_a_neighbour)
    assert len(run_grid(TINY, small_grid(seeds=(1,)), table, progress=False)) == 4
    assert len(read_table(table)) == 5


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"", "mqar.csv is no table of results: .*; name another file, or delete it"),
        (b"\xff\xfe\x00", "is no table of results: "),
        (
            b"kernel,accuracy\nbased,1.0\n",
            r"is no table of results of this version: its columns are \['kernel', 'accuracy'\]; name another",
        ),
    ],
)
def test_another_kind_of_file_is_refused_and_left_alone(
    trained, tmp_path, written, said
):
    table = tmp_path / "mqar.csv"
    table.write_bytes(written)
    with pytest.raises(sle.FormatError, match=said):
        run_grid(TINY, small_grid(), table, progress=False)
    assert table.read_bytes() == written
    assert not trained


def test_a_device_that_is_not_there_is_refused_first(trained, tmp_path):
    with pytest.raises(
        sle.InvalidArgument, match="device 'nowhere' cannot be used here"
    ):
        run_grid(
            TINY, small_grid(), tmp_path / "mqar.csv", device="nowhere", progress=False
        )
    assert not trained


def test_models_are_kept_whole_with_what_they_were_trained_for(trained, tmp_path):
    recipe, table = small_grid()[0], tmp_path / "mqar.csv"
    run_grid(TINY, [recipe], table, progress=False)
    run_grid(TINY, small_grid()[:2], table, models=tmp_path / "models", progress=False)
    assert trained == [recipe, *small_grid()[:2]], (
        "the one in the table had left no model"
    )
    assert len(read_table(table)) == 2
    folder = model_folder(tmp_path / "models", recipe, TINY)
    assert folder.name.startswith("based-lr0.3-seed1-")
    kept, model = BasedForCausalLM.from_pretrained(folder), train_mqar(recipe, TINY)[0]
    assert kept.config.kernel == "based"
    tokens, _ = TINY.sample(3, rng())
    assert torch.equal(kept(tokens).logits, model(tokens).logits)
    facts = json.loads((folder / "mqar.json").read_text())
    assert Recipe(**facts["recipe"]) == recipe
    assert MQAR(**facts["task"]) == TINY
    assert facts["outcome"]["accuracy"] == read_table(table)["accuracy"][0]
    assert len(list((tmp_path / "models").iterdir())) == 2, "nothing but whole models"
    run_grid(TINY, small_grid()[:2], table, models=tmp_path / "models", progress=False)
    assert len(trained) == 3


def test_a_model_that_cannot_be_written_leaves_nothing(trained, tmp_path, monkeypatch):
    def half(self, folder):
        (folder / "model.safetensors").write_text("")
        raise OSError("no space left")

    monkeypatch.setattr(BasedForCausalLM, "save_pretrained", half)
    with pytest.raises(OSError, match="no space left"):
        run_grid(
            TINY,
            small_grid()[:1],
            tmp_path / "mqar.csv",
            models=tmp_path / "models",
            progress=False,
        )
    assert not list((tmp_path / "models").iterdir())
    assert len(read_table(tmp_path / "mqar.csv")) == 1, "what came of it is not lost"
    monkeypatch.undo()
    folder = model_folder(tmp_path / "models", small_grid()[0], TINY)
    folder.mkdir()
    run_grid(
        TINY,
        small_grid()[:1],
        tmp_path / "mqar.csv",
        models=tmp_path / "models",
        jobs=1,
        progress=False,
    )
    assert (folder / "model.safetensors").exists(), "an empty folder is no model"
    assert len(read_table(tmp_path / "mqar.csv")) == 1


def test_workers_end_with_the_command_that_is_killed(tmp_path):
    options = shlex.split(
        "--seq-len 8 --pairs 2 --vocab-size 10 --d-model 8 --heads 2 --feature-dim 2 --batch-size 4 --train-examples 0"
    )
    command = [
        sys.executable,
        "-m",
        "sae_lens_ext",
        "mqar",
        *options,
        "--steps",
        "1000000",
        "--evaluations",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        # The worker, and what multiprocessing itself needs.
        workers = _wait_for(
            lambda: len(found := _alive("--ppid", str(running.pid))) >= 2 and found
        )
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=60)
        assert _wait_for(lambda: not _alive("-p", ",".join(workers)))
    finally:
        running.kill()


def _alive(*which):
    """Numbers of the processes that ``ps`` finds, those that only wait to be buried left out."""
    lines = subprocess.run(
        ["ps", "-o", "pid=,stat=", *which], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    return [pid for pid, state in map(str.split, lines) if not state.startswith("Z")]


def _wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


def test_every_recipe_and_task_has_a_folder_of_its_own(tmp_path):
    recipes = [
        *small_grid(),
        replace(small_grid()[0], d_model=16),
        replace(small_grid()[0], train_examples=8),
    ]
    tasks = [TINY, replace(TINY, vocab_size=11)]
    assert len(
        {model_folder(tmp_path, recipe, task) for recipe in recipes for task in tasks}
    ) == len(recipes) * len(tasks)


# What a table says


def results():
    """Two learning rates; "based" is best at the higher, "rebased" at the lower."""
    found = {
        ("based", 1e-3): [(0.1, -1), (0.2, -1)],
        ("based", 1e-2): [(0.3, -1), (0.5, -1)],
        ("rebased", 1e-3): [(0.95, 300), (0.85, -1), (0.99, 100)],
        ("rebased", 1e-2): [(1.0, 50), (0.0, -1), (0.0, -1)],
    }
    lines = [
        {
            "kernel": kernel,
            "lr": lr,
            "seed": seed,
            "accuracy": share,
            "solved_at": step,
            "seconds": 2.0 * lr,
        }
        for (kernel, lr), runs in found.items()
        for seed, (share, step) in enumerate(runs)
    ]
    return pd.DataFrame(lines)


def test_a_kernel_counts_at_the_learning_rate_that_is_best_on_average():
    best = at_best_lr(results())
    assert best.groupby("kernel")["lr"].unique().map(list).to_dict() == {
        "based": [1e-2],
        "rebased": [1e-3],
    }
    found = summary(results()).set_index("kernel")
    assert list(found.index) == ["based", "rebased"]
    assert found.loc["based"].to_dict() == pytest.approx(
        {
            "lr": 1e-2,
            "runs": 2,
            "accuracy": 0.4,
            "std": 0.02**0.5,
            "se": 0.1,
            "solved": 0,
            "steps_to_solve": np.nan,
            "seconds": 0.02,
        },
        nan_ok=True,
    )
    assert found.loc[
        "rebased", ["runs", "solved", "steps_to_solve"]
    ].tolist() == pytest.approx([3, 2 / 3, 200])


def test_a_difference_is_told_with_its_standard_error():
    found = differences(results())
    assert found[["first", "second"]].to_numpy().tolist() == [["based", "rebased"]]
    spread = np.std([0.95, 0.85, 0.99], ddof=1)
    se = (0.1**2 + spread**2 / 3) ** 0.5
    difference = np.mean([0.95, 0.85, 0.99]) - 0.4
    assert found.loc[0, ["difference", "se", "t"]].tolist() == pytest.approx(
        [difference, se, difference / se]
    )


def test_of_one_run_no_error_is_known():
    one = results()[results()["seed"] == 0]
    assert summary(one)["se"].isna().all()
    assert np.isnan(differences(one).loc[0, "t"])
    assert differences(one[one["kernel"] == "based"]).empty


def test_the_figure_shows_every_run_and_the_mean():
    from sae_lens_ext.viz.recall import plot_recall

    (axes,) = plot_recall(at_best_lr(results()), title="three pairs").axes
    assert [sorted(line.get_ydata()) for line in axes.lines] == [
        [0.3, 0.5],
        [0.85, 0.95, 0.99],
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "based\nlr 0.01",
        "rebased\nlr 0.001",
    ]
    assert [text.get_text() for text in axes.texts] == ["0.40", "0.93"]
    assert axes.get_title() == "three pairs"
