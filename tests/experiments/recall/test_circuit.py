"""A model learns to recall, and interventions find its circuit and its features."""

import copy

import numpy as np
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.based import boot
from sae_lens_ext.experiments.recall import (
    MQAR,
    UNLABELLED,
    Recipe,
    answers_at,
    model_for,
    soft_iou,
    train_mqar,
)
from sae_lens_ext.experiments.recall import accuracy as accuracy_of_model
from sae_lens_ext.training import TrainConfig, collect_activations, train

TASK = MQAR(seq_len=24, pairs=6, vocab_size=48)
# As in docs/recall_circuit.md.
RECIPE = Recipe(
    kernel="rebased",
    d_model=32,
    heads=4,
    feature_dim=8,
    lr=1e-2,
    seed=0,
    init_std=0.1,
    steps=1500,
    batch_size=128,
    train_examples=None,
    test_examples=500,
    evaluations=30,
)
CONV = "blocks.0.attn"
ATTENTION = "blocks.1.attn"
CONTEXT = slice(0, 2 * TASK.pairs)
QUESTIONS = slice(2 * TASK.pairs, None)
CHANCE = 1 / TASK.pairs
"""The accuracy of naming any value of the context."""


@pytest.fixture(scope="module")
def trained_model():
    return train_mqar(RECIPE, TASK)[0]


@pytest.fixture(scope="module")
def bridge(trained_model):
    return boot(copy.deepcopy(trained_model))


@pytest.fixture(scope="module")
def questions():
    return TASK.sample(200, np.random.default_rng(7))


@pytest.fixture(scope="module")
def cache(bridge, questions):
    with torch.no_grad():
        return bridge.run_with_cache(questions[0])[1]


@pytest.fixture
def accuracy(bridge, questions):
    """The share of questions answered as the labels say, with hooks."""
    tokens, labels = questions
    is_question = labels != UNLABELLED

    def measured(*hooks, tokens=tokens):
        with torch.no_grad():
            logits = bridge.run_with_hooks(tokens, fwd_hooks=list(hooks))
        is_right = logits.argmax(-1) == labels
        return is_right[is_question].float().mean().item()

    return measured


def without_tap(tap, positions=slice(None)):
    def silence(taps, hook):
        taps = taps.clone()
        taps[:, positions, tap] = 0
        return taps

    return f"{CONV}.hook_conv_taps", silence


def state_of_the_clean_run(cache, positions=slice(None)):
    def patched(point):
        def patch(x, hook):
            x = x.clone()
            x[:, positions] = cache[hook.name][:, positions]
            return x

        return f"{ATTENTION}.{point}", patch

    return [patched("hook_state"), patched("hook_state_norm")]


def test_training_teaches_to_recall(trained_model, questions):
    """A guess is right once in 24; naming any value of the context, once in six."""
    assert accuracy_of_model(model_for(RECIPE, TASK), *questions) < 0.08
    assert accuracy_of_model(trained_model, *questions) > 0.95


def test_answers_stand_behind_their_keys(questions):
    tokens, labels = questions
    batch, query, key = answers_at(tokens, labels).nonzero().T
    assert len(batch) == 200 * TASK.pairs
    assert torch.equal(tokens[batch, key], labels[batch, query])
    assert torch.equal(tokens[batch, key - 1], tokens[batch, query])

    moved = labels.roll(1, dims=1)
    with pytest.raises(
        sle.InvalidArgument,
        match="asks for a key that does not occur before it; "
        "give tokens and labels of MQAR.sample",
    ):
        answers_at(tokens, moved)


def test_overlap_is_one_at_the_answers_and_counts_both_sides():
    where = torch.zeros(1, 4, 4, dtype=torch.bool)
    where[0, 2, 1] = True
    where[0, 3, 0] = True

    exact = torch.zeros(1, 4, 4)
    exact[where] = 1
    # A query without an answer does not count.
    exact[0, 0, 0] = 1
    even = torch.zeros(1, 4, 4)
    even[0, 2, :3] = 1 / 3
    even[0, 3] = 1 / 4
    half = torch.zeros(1, 4, 4)
    half[where] = 0.5

    overlaps = soft_iou(torch.stack([exact, even, half], 1), where)
    expected = torch.tensor([1.0, (1 / 3 + 1 / 4) / (2 + 2 / 3 + 3 / 4), 0.5])
    torch.testing.assert_close(overlaps, expected)


def test_convolution_writes_each_key_onto_its_value(accuracy):
    assert accuracy() > 0.95
    # The tap of the token before, in the context alone: without it no value knows its
    # key.
    assert accuracy(without_tap(1, CONTEXT)) < CHANCE + 0.1
    assert accuracy(without_tap(0)) > 0.8, (
        "the tap of two tokens back is not part of it"
    )


def test_attention_retrieves_the_value(accuracy, questions, cache):
    where = answers_at(*questions)

    def zero(out, hook):
        return torch.zeros_like(out)

    def elsewhere(pattern, hook):
        return pattern.masked_fill(where.unsqueeze(1), 0)

    def at_the_answer_alone(pattern, hook):
        has_answer = where.any(-1)[:, None, :, None]
        target = where.unsqueeze(1).to(pattern.dtype)
        return torch.where(has_answer, target, pattern)

    hook_pattern = f"{ATTENTION}.hook_pattern"
    assert accuracy((f"{ATTENTION}.hook_out", zero)) < CHANCE
    assert accuracy((hook_pattern, elsewhere)) < CHANCE
    assert accuracy((hook_pattern, at_the_answer_alone)) > 0.98

    even = torch.ones(TASK.seq_len, TASK.seq_len).tril()
    even = (even / even.sum(-1, keepdim=True)).expand(200, 1, -1, -1)
    assert soft_iou(cache[hook_pattern], where).max() > 5 * soft_iou(even, where)


def test_state_holds_the_pairs(accuracy, questions, cache):
    tokens, _ = questions
    # Knocked out before the state, restored by the state.
    assert accuracy(without_tap(1, CONTEXT), *state_of_the_clean_run(cache)) > 0.95

    # Other values behind the same keys: the state of the original sequence answers for
    # it.
    swapped = tokens.clone()
    values = slice(1, 2 * TASK.pairs, 2)
    swapped[:, values] = tokens[:, values].roll(1, dims=1)
    assert accuracy(tokens=swapped) < CHANCE
    original_state = state_of_the_clean_run(cache, QUESTIONS)
    assert accuracy(*original_state, tokens=swapped) > 0.95


@pytest.fixture(scope="module")
def sae(trained_model):
    rows, _ = TASK.sample(4000, np.random.default_rng(1))
    activations = collect_activations(
        trained_model,
        rows,
        "blocks.0.hook_resid_post",
        positions="all",
        batch_size=100,
        progress=False,
    )
    return train(activations, TrainConfig(d_sae=256, k=16), progress=False).sae


def test_sae_of_the_residual_stream_is_spliced_at_every_k(bridge, sae, accuracy):
    accuracies = []
    for k in (2, 8, 16):
        with sle.splice(bridge, sae, k=k):
            accuracies.append(accuracy())
    assert accuracies[0] < 0.6
    assert accuracies[1] > 0.75
    assert accuracies[2] > 0.85
    # Both may be close to 1, in any order.
    assert accuracies[2] > accuracies[1] - 0.02
    assert accuracy() > 0.95


ASKED, OTHER = 1, 4
"""Two pairs of the context, whose keys the corrupted prompts exchange."""
VALUES = [2 * ASKED + 1, 2 * OTHER + 1]


def question_pairs(tokens):
    """Prompts that end in a key, the same with two keys exchanged, and the answers."""
    pairs = tokens[:, CONTEXT].unflatten(1, (TASK.pairs, 2))
    exchanged = pairs.clone()
    exchanged[:, [ASKED, OTHER], 0] = pairs[:, [OTHER, ASKED], 0]
    question = pairs[:, ASKED, :1]
    clean, corrupted = (
        torch.cat([context.flatten(1), question], dim=1)
        for context in (pairs, exchanged)
    )
    answers = pairs[:, [ASKED, OTHER], 1].T.tolist()
    return clean, corrupted, sle.circuits.logit_difference(*answers)


def test_effects_and_edges_find_the_circuit(bridge, sae, questions):
    tokens, _ = questions
    chosen_on = question_pairs(tokens[:20])
    clean, corrupted, metric = question_pairs(tokens[20:40])
    effects = sle.circuits.effects(
        bridge,
        sae,
        *chosen_on[:2],
        metric=chosen_on[2],
        method="integrated_gradients",
    )
    assert (effects.metric_clean > 0).all()
    assert effects.metric_corrupted is not None
    assert (effects.metric_corrupted < 0).all()

    for k in (4, 16):
        # Each key stands on the position of its value, and nowhere else.
        table = effects.at(k)
        sizes = table.effect.abs()
        assert sizes[table.position.isin(VALUES)].sum() > 0.95 * sizes.sum()

        circuit = effects.select(k, budget=16)
        tested = circuit.faithfulness(
            bridge, clean, corrupted, metric=metric, controls=("random",), n_draws=1
        )
        by_nodes = tested.table().groupby("nodes").faithfulness.last()
        assert by_nodes["circuit"] > 0.9
        assert by_nodes["random"] < 0.2

    edges = sle.circuits.edges(bridge, sae, clean, corrupted, metric=metric, budget=40)
    table = edges.at(sae.config.k)
    read = table[table.source_site == "tokens"]
    # The convolution brings them there from the position before.
    is_key = read.source_position == read.target_position - 1
    sizes = read.effect.abs()
    assert sizes[is_key & read.target_position.isin(VALUES)].sum() > 0.99 * sizes.sum()
