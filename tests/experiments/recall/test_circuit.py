"""A model learns to recall; its circuit, found through its hooks; and its residual stream through an SAE."""

import copy

import numpy as np
import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.based import boot
from sae_lens_ext.experiments.recall.circuit import answers_at, soft_iou
from sae_lens_ext.experiments.recall.task import (
    MQAR,
    UNLABELLED,
    Recipe,
    model_for,
    train_mqar,
)
from sae_lens_ext.experiments.recall.task import accuracy as share_right
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
CONV, ATTENTION = "blocks.0.attn", "blocks.1.attn"
CHANCE = 1 / TASK.pairs
"""What naming any value of the context gets right."""


@pytest.fixture(scope="module")
def trained():
    return train_mqar(RECIPE, TASK)[0]


@pytest.fixture(scope="module")
def bridge(trained):
    return boot(copy.deepcopy(trained))


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
    asked = labels != UNLABELLED

    def measured(*hooks, tokens=tokens):
        with torch.no_grad():
            logits = bridge.run_with_hooks(tokens, fwd_hooks=list(hooks))
        return (logits.argmax(-1) == labels)[asked].float().mean().item()

    return measured


def without_tap(tap, positions=slice(None)):
    def silence(each, hook):
        each = each.clone()
        each[:, positions, tap] = 0
        return each

    return f"{CONV}.hook_conv_taps", silence


def of_the_clean_run(cache, positions=slice(None)):
    def patched(point):
        def patch(x, hook):
            x = x.clone()
            x[:, positions] = cache[hook.name][:, positions]
            return x

        return f"{ATTENTION}.{point}", patch

    return [patched("hook_state"), patched("hook_state_norm")]


def test_it_has_learned_to_recall(trained, questions):
    """A guess is right once in 24; a model that names values of the context, and not which, once in six."""
    assert share_right(model_for(RECIPE, TASK), *questions) < 0.08
    assert share_right(trained, *questions) > 0.95


def test_answers_stand_behind_the_keys(questions):
    tokens, labels = questions
    where = answers_at(tokens, labels)
    batch, query, key = where.nonzero().T
    assert len(batch) == 200 * TASK.pairs
    assert torch.equal(tokens[batch, key], labels[batch, query])
    assert torch.equal(tokens[batch, key - 1], tokens[batch, query])
    moved = labels.roll(1, dims=1)
    with pytest.raises(
        sle.InvalidArgument,
        match="asks for a key that does not occur before it; give tokens and labels of MQAR.sample",
    ):
        answers_at(tokens, moved)


def test_the_overlap_is_one_where_it_should_be_and_counts_both_sides():
    where = torch.zeros(1, 4, 4, dtype=torch.bool)
    where[0, 2, 1] = where[0, 3, 0] = True
    right, even, half = (torch.zeros(1, 4, 4) for _ in range(3))
    right[where] = 1
    even[0, 2, :3], even[0, 3] = 1 / 3, 1 / 4
    half[where] = 0.5
    right[0, 0, 0] = 1  # a query that has no answer
    found = soft_iou(torch.stack([right, even, half], 1), where)
    torch.testing.assert_close(
        found, torch.tensor([1.0, (1 / 3 + 1 / 4) / (2 + 2 / 3 + 3 / 4), 0.5])
    )


def test_the_convolution_writes_the_key_onto_its_value(accuracy):
    assert accuracy() > 0.95
    # The tap of the token before, in the context alone: without it no value knows its key.
    assert accuracy(without_tap(1, slice(0, 2 * TASK.pairs))) < CHANCE + 0.1
    assert accuracy(without_tap(0)) > 0.8, (
        "the tap of two tokens back is not part of it"
    )


def test_attention_retrieves(accuracy, questions, cache):
    where = answers_at(*questions)

    def elsewhere(pattern, hook):
        return pattern.masked_fill(where.unsqueeze(1), 0)

    def there_alone(pattern, hook):
        return torch.where(
            where.any(-1)[:, None, :, None],
            where.unsqueeze(1).to(pattern.dtype),
            pattern,
        )

    assert (
        accuracy((f"{ATTENTION}.hook_out", lambda out, hook: torch.zeros_like(out)))
        < CHANCE
    )
    assert accuracy((f"{ATTENTION}.hook_pattern", elsewhere)) < CHANCE
    assert accuracy((f"{ATTENTION}.hook_pattern", there_alone)) > 0.98
    even = torch.ones(TASK.seq_len, TASK.seq_len).tril()
    even = (even / even.sum(-1, keepdim=True)).expand(200, 1, -1, -1)
    pattern = cache[f"{ATTENTION}.hook_pattern"]
    assert soft_iou(pattern, where).max() > 5 * soft_iou(even, where)


def test_the_state_holds_what_was_said(accuracy, questions, cache):
    tokens, _ = questions
    context = slice(0, 2 * TASK.pairs)
    # Knocked out before the state, restored by the state.
    assert accuracy(without_tap(1, context), *of_the_clean_run(cache)) > 0.95
    # Other values behind the same keys: the state of the other sequence answers for it.
    others = tokens.clone()
    others[:, 1 : 2 * TASK.pairs : 2] = tokens[:, 1 : 2 * TASK.pairs : 2].roll(
        1, dims=1
    )
    assert accuracy(tokens=others) < CHANCE
    assert (
        accuracy(*of_the_clean_run(cache, slice(2 * TASK.pairs, None)), tokens=others)
        > 0.95
    )


def test_an_sae_of_its_residual_stream_is_spliced_at_every_k(
    trained, bridge, questions, accuracy
):
    site = "blocks.0.hook_resid_post"
    rows, _ = TASK.sample(4000, np.random.default_rng(1))
    activations = collect_activations(
        trained, rows, site, batch_size=100, progress=False
    )
    sae = train(activations, TrainConfig(d_sae=256, k=16), progress=False).sae
    found = []
    for k in (2, 8, 16):
        with sle.splice(bridge, sae, k=k):
            found.append(accuracy())
    assert found == sorted(found)
    assert found[0] < 0.6
    assert found[1] > 0.75
    assert found[2] > 0.85
    assert accuracy() > 0.95
