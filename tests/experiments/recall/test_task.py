"""Sequences of MQAR are laid out and drawn as published."""

import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import quick_recall
import torch

import sae_lens_ext as sle
from sae_lens_ext.experiments.recall import MQAR, UNLABELLED


@pytest.mark.parametrize("random_non_queries", [False, True])
@pytest.mark.parametrize(
    ("seq_len", "pairs", "vocab_size"),
    [(4, 1, 4), (12, 3, 9), (64, 4, 8192), (64, 16, 34), (200, 32, 401)],
)
def test_sequence_names_its_pairs_and_asks_for_each_once(
    seq_len, pairs, vocab_size, random_non_queries
):
    task = MQAR(seq_len, pairs, vocab_size, random_non_queries=random_non_queries)
    tokens, labels = task.sample(200, quick_recall.generator())
    context = 2 * pairs
    assert tokens.shape == labels.shape == (200, seq_len)

    for row, row_labels in zip(tokens.tolist(), labels.tolist(), strict=True):
        keys = row[:context:2]
        values = row[1:context:2]
        value_of = dict(zip(keys, values, strict=True))
        assert len(set(keys)) == len(set(values)) == pairs
        assert all(1 <= key < vocab_size // 2 for key in keys)
        assert all(vocab_size // 2 <= value < vocab_size for value in values)

        questions = [pos for pos in range(seq_len) if row_labels[pos] != UNLABELLED]
        assert sorted(row[pos] for pos in questions) == sorted(keys), (
            "each key is asked for once"
        )
        assert all(pos >= context and pos % 2 == 0 for pos in questions)
        assert [row_labels[pos] for pos in questions] == [
            value_of[row[pos]] for pos in questions
        ]

    fillers = tokens[:, context:][labels[:, context:] == UNLABELLED]
    assert (fillers != 0).any() == (random_non_queries and fillers.numel() > 0)
    assert 0 <= int(fillers.min()) <= int(fillers.max()) < vocab_size


def test_random_fillers_are_any_tokens():
    task = MQAR(40, 2, 42, random_non_queries=True)
    tokens, labels = task.sample(500, quick_recall.generator())
    fillers = tokens[:, 4:][labels[:, 4:] == UNLABELLED]
    assert set(fillers.tolist()) == set(range(42))


@pytest.mark.parametrize("pairs", [1, 5, 16])
def test_four_tokens_per_pair_take_every_slot(pairs):
    _, labels = MQAR(4 * pairs, pairs, 100).sample(50, quick_recall.generator())
    assert (labels[:, 2 * pairs :: 2] != UNLABELLED).all()


# Few of many are drawn until they differ; many of few are shuffled.
@pytest.mark.parametrize("pairs", [2, 4])
def test_every_order_of_keys_and_values_is_equally_likely(pairs):
    # Keys are 1 to 7, values 8 to 16.
    task = MQAR(16, pairs, 17)
    tokens, _ = task.sample(60_000, quick_recall.generator())
    for first, last, column in ((1, 7, 0), (8, 16, 1)):
        orders = list(itertools.permutations(range(first, last + 1), 2))
        drawn = [tuple(pair) for pair in tokens[:, [column, column + 2]].tolist()]
        counts = counts_of(drawn, orders)
        assert deviation(counts, np.full(len(orders), 1 / len(orders))) < 5


def test_many_of_many_are_drawn_in_little_memory():
    task = MQAR(seq_len=256, pairs=64, vocab_size=8192)
    # numpy reports what it takes.
    tracemalloc.start()
    try:
        task.sample(5000, np.random.default_rng(0))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 160e6, "5,000 rows of 4,095 numbers and their order are 328 MB"


def counts_of(drawn, outcomes):
    """How often each outcome was drawn."""
    return pd.Series(drawn).value_counts().reindex(outcomes, fill_value=0).to_numpy()


def deviation(counts, probabilities):
    """Distance of counts from expectation, in standard deviations of chi-square."""
    expected = counts.sum() * probabilities
    degrees = len(counts) - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    return (chi_square - degrees) / np.sqrt(2 * degrees)


def probabilities_of_draws(slots, power_a):
    """The probability of each ordered pair of slots, drawn without replacement.

    A slot's own probability is proportional to slot^(a - 1).
    """
    p = np.arange(1, slots + 1) ** (power_a - 1)
    p = p / p.sum()
    return {
        (i, j): p[i] * p[j] / (1 - p[i])
        for i, j in itertools.permutations(range(slots), 2)
    }


def slots_of(task, n, generator):
    """The slots in which the first and the second key are asked for."""
    tokens, labels = task.sample(n, generator)
    tail = tokens[:, 2 * task.pairs :: 2]
    is_question = labels[:, 2 * task.pairs :: 2] != UNLABELLED
    slots = []
    for column in (0, 2):
        is_key = (tail == tokens[:, [column]]) & is_question
        slots.append(is_key.int().argmax(1).tolist())
    return list(zip(*slots, strict=True))


@pytest.mark.parametrize("power_a", [0.01, 0.5, 2.0])
def test_slots_are_drawn_one_after_the_other_and_early_ones_more_often(power_a):
    """The j-th draw is the j-th key's, so keys named early tend to be asked early."""
    task = MQAR(16, 2, 64, power_a=power_a)
    expected = probabilities_of_draws(6, power_a)
    drawn = slots_of(task, 60_000, quick_recall.generator())
    counts = counts_of(drawn, list(expected))
    assert deviation(counts, np.array(list(expected.values()))) < 5

    of_another_power = probabilities_of_draws(6, power_a + 0.1)
    assert deviation(counts, np.array(list(of_another_power.values()))) > 10, (
        "another power is seen"
    )


def test_numpy_draws_slots_with_the_same_probabilities():
    """The published generator leaves the draws to numpy's ``choice``."""
    expected = probabilities_of_draws(6, 0.01)
    published_generator = np.random.RandomState(0)
    p = np.arange(1, 7) ** (0.01 - 1)
    p = p / p.sum()
    drawn = [
        tuple(published_generator.choice(6, size=2, replace=False, p=p))
        for _ in range(20_000)
    ]
    counts = counts_of(drawn, list(expected))
    assert deviation(counts, np.array(list(expected.values()))) < 5


def test_generator_repeats_its_sequences_and_then_gives_others():
    generator = quick_recall.generator()
    first, _ = quick_recall.TASK.sample(20, generator)
    again, _ = quick_recall.TASK.sample(20, quick_recall.generator())
    following, _ = quick_recall.TASK.sample(20, generator)
    assert torch.equal(first, again)
    assert not torch.equal(first, following)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seq_len": 9},
            r"seq_len must be even and at least 4 \* pairs; got seq_len=9, pairs=2",
        ),
        ({"pairs": 3}, "got seq_len=8, pairs=3"),
        ({"pairs": 0}, "pairs must be a positive integer; got 0"),
        ({"vocab_size": 0}, "vocab_size must be a positive integer; got 0"),
        (
            {"vocab_size": 5},
            "vocab_size must be at least 6 for 2 keys, 2 values and the filler; got 5",
        ),
        ({"power_a": float("nan")}, "power_a must be a finite number; got nan"),
        (
            {"random_non_queries": "no"},
            "random_non_queries must be True or False; got 'no'",
        ),
        (
            {"pairs": 0, "power_a": float("inf")},
            "pairs must be .* got 0; power_a must be a finite number; got inf",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_task_that_cannot_be_laid_out(changes, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        replace(quick_recall.TASK, **changes)
