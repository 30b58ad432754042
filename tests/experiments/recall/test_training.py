"""Training learns, is decided by the seed, and is tested as published."""

from dataclasses import replace

import pytest
import quick_recall
import torch
from quick_recall import Oracle

import sae_lens_ext as sle
from sae_lens_ext.based import FEATURE_MAPS
from sae_lens_ext.based.config import ATTENTION
from sae_lens_ext.experiments.recall import (
    MQAR,
    UNLABELLED,
    Outcome,
    Recipe,
    accuracy,
    model_for,
    train_mqar,
    training,
)
from sae_lens_ext.experiments.recall.batches import batches, training_tasks


def weights_of(model):
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("kernel", [*FEATURE_MAPS, ATTENTION])
def test_every_kernel_trains_and_the_seed_decides(kernel):
    recipe = replace(quick_recall.RECIPE, kernel=kernel, lr=0.1)
    task = quick_recall.TASK
    tests = []
    model, outcome = train_mqar(recipe, task, on_test=lambda *test: tests.append(test))
    same_model, same_outcome = train_mqar(recipe, task)
    other_model, _ = train_mqar(replace(recipe, seed=43), task)

    weights = weights_of(model)
    assert torch.equal(weights, weights_of(same_model))
    assert not torch.equal(weights, weights_of(other_model))
    assert not torch.equal(weights, weights_of(model_for(recipe, task)))
    assert (outcome.accuracy, outcome.last_accuracy, outcome.solved_at) == (
        same_outcome.accuracy,
        same_outcome.last_accuracy,
        same_outcome.solved_at,
    )
    assert [step for step, _ in tests] == [2, 4]
    assert outcome.accuracy == max(share for _, share in tests)
    assert outcome.last_accuracy == tests[-1][1]
    assert outcome.seconds > 0
    assert not model.training


def test_torch_random_numbers_stay_as_they_were():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model_for(quick_recall.RECIPE, quick_recall.TASK)
    train_mqar(quick_recall.RECIPE, quick_recall.TASK)
    assert torch.equal(torch.rand(3), expected)


def test_training_that_diverges_ends_and_reports_it(monkeypatch):
    labelled_logits = training._labelled_logits
    calls = []

    def not_finite_from_the_third_step_on(*arguments):
        logits, answers = labelled_logits(*arguments)
        calls.append(len(calls))
        if len(calls) >= 3:
            logits = logits * float("nan")
        return logits, answers

    monkeypatch.setattr(training, "_labelled_logits", not_finite_from_the_third_step_on)
    monkeypatch.setattr(training, "accuracy", lambda *_: 0.5)
    tests = []
    _, outcome = train_mqar(
        replace(quick_recall.RECIPE, steps=6, evaluations=3),
        quick_recall.TASK,
        on_test=lambda *test: tests.append(test),
    )
    assert tests == [(2, 0.5), (4, 0.0)]
    assert outcome == Outcome(0.5, 0.0, -1, outcome.seconds, diverged=True)


@pytest.mark.parametrize(
    ("shares", "stopped_after", "solved_at"),
    [([0.2, 0.995, 1.0], 4, 4), ([0.5, 0.9, 0.99], 6, 4), ([0.1, 0.8, 0.3], 6, -1)],
)
def test_training_stops_above_99_percent_and_records_when_it_reached_90(
    monkeypatch, shares, stopped_after, solved_at
):
    next_shares = iter(shares)
    steps = []
    monkeypatch.setattr(training, "accuracy", lambda *_: next(next_shares))
    _, outcome = train_mqar(
        replace(quick_recall.RECIPE, steps=6, evaluations=3),
        quick_recall.TASK,
        on_test=lambda step, _: steps.append(step),
    )
    assert steps[-1] == stopped_after
    assert outcome.solved_at == solved_at
    assert outcome.accuracy == max(shares[: len(steps)])
    assert outcome.last_accuracy == shares[len(steps) - 1]


def test_last_step_is_tested_and_there_are_no_more_tests_than_asked_for():
    steps = []
    train_mqar(
        replace(quick_recall.RECIPE, steps=7, evaluations=4),
        quick_recall.TASK,
        on_test=lambda step, _: steps.append(step),
    )
    assert steps == [2, 4, 6, 7]


@pytest.mark.parametrize("train_examples", [None, 64])
@pytest.mark.parametrize("seed", [42, 52])
def test_no_test_sequence_is_trained_on(monkeypatch, train_examples, seed):
    task = MQAR(16, 4, 64)
    recipe = replace(
        quick_recall.RECIPE,
        seed=seed,
        batch_size=64,
        test_examples=64,
        train_examples=train_examples,
    )
    tested = []

    def recorded(_, tokens, __):
        tested.append(tokens)
        return 0.0

    monkeypatch.setattr(training, "accuracy", recorded)
    train_mqar(recipe, task)
    assert len(tested[0]) == 64
    assert torch.equal(tested[0], tested[1])

    trained_on = set()
    for tokens, _ in batches(recipe, task):
        trained_on.update(map(tuple, tokens.tolist()))
    assert not trained_on & set(map(tuple, tested[0].tolist()))


@pytest.mark.parametrize("train_examples", [None, 12])
def test_training_on_shorter_sequences_is_tested_on_the_task(
    monkeypatch, train_examples
):
    recipe = replace(
        quick_recall.RECIPE,
        fewest_pairs=1,
        train_seq_len=16,
        learned_positions=False,
        steps=20,
        train_examples=train_examples,
    )
    task = MQAR(40, 4, 64, power_a=1.0)
    assert training_tasks(recipe, task) == [
        MQAR(16, n, 64, power_a=1.0) for n in (1, 2, 4)
    ]
    assert {tokens.shape for tokens, _ in batches(recipe, task)} == {(4, 16)}

    tested = []

    def recorded(_, tokens, labels):
        tested.append((tokens.shape, int((labels[0] != UNLABELLED).sum())))
        return 0.0

    monkeypatch.setattr(training, "accuracy", recorded)
    train_mqar(recipe, task)
    assert tested == [((6, 40), 4)] * 2


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("batch_size", [3, None])
def test_accuracy_is_the_share_of_questions_answered_over_all_batches(batch_size):
    tokens, labels = MQAR(16, 4, 40).sample(7, quick_recall.generator())
    oracle = Oracle(tokens, labels, 40).train()
    is_question = labels != UNLABELLED
    expected = float(is_question[:, ::3].sum() / is_question.sum())
    assert 0 < expected < 1
    assert accuracy(oracle, tokens, labels, batch_size) == pytest.approx(expected)
    assert oracle.training

    with pytest.raises(KeyError):
        accuracy(oracle, tokens + 1, labels)
    assert oracle.training, "after a failure too"


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer; got 0"),
        (
            {"labels": torch.zeros(7, 15)},
            r"tokens and labels must both have the shape \[n, pos\]; "
            r"got \[7, 16\] and \[7, 15\]",
        ),
        (
            {"labels": torch.full((7, 16), UNLABELLED)},
            "labels must hold at least one answer; all of them are -100",
        ),
    ],
)
def test_accuracy_rejects_sequences_without_questions(changes, message):
    tokens, labels = MQAR(16, 4, 40).sample(7, quick_recall.generator())
    arguments = {
        "model": Oracle(tokens, labels, 40),
        "tokens": tokens,
        "labels": labels,
        **changes,
    }
    with pytest.raises(sle.InvalidArgument, match=message):
        accuracy(**arguments)


@pytest.mark.usefixtures("without_shape_checks")
def test_accuracy_asks_fewer_long_sequences_at_a_time():
    tokens, labels = MQAR(30_000, 4, 40).sample(3, quick_recall.generator())
    oracle = Oracle(tokens, labels, 40)
    answer = oracle.model
    batch_sizes = []

    def recorded(tokens, use_cache):
        batch_sizes.append(len(tokens))
        return answer(tokens, use_cache)

    oracle.model = recorded
    accuracy(oracle, tokens, labels)
    assert batch_sizes == [2, 1], "at most 65,536 tokens"


def test_untrained_model_guesses():
    task = MQAR(64, 8, 128)
    tokens, labels = task.sample(400, quick_recall.generator())
    for kernel in ("based", "rebased", ATTENTION):
        recipe = Recipe(kernel, d_model=32, heads=4, feature_dim=8, init_std=0.1)
        assert accuracy(model_for(recipe, task), tokens, labels) < 0.04, (
            "one of 64 values, or of 128 tokens"
        )
